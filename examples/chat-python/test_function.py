import unittest

import bento_testing


class Chat(unittest.TestCase):
    def test_answers_each_message_before_the_next_is_sent(self):
        with bento_testing.install() as chat, chat.start() as session:
            self.assertEqual(session.receive(), b"Say something.\n")
            for word in ["one", "two"]:
                session.send(word)
                self.assertEqual(session.receive().decode(), "You said: %s\n" % word)
            session.end_input()
            self.assertEqual(session.receive(), b"That was 2 messages.\n")
            self.assertIsNone(session.receive())
            self.assertEqual(session.outcome, {"kind": "returned"})

    def test_all_of_the_input_at_once(self):
        self.assertEqual(len(bento_testing.run(input=["a", "b", "c"]).messages), 5)
