import unittest

import bento_testing


class Hello(unittest.TestCase):
    def test_greets_the_world_when_nobody_is_named(self):
        self.assertEqual(bento_testing.run().text, "hello world\n")

    def test_greets_each_argument_in_a_message_of_its_own(self):
        self.assertEqual(bento_testing.run("Ada", "Tor").messages, [b"hello Ada\n", b"hello Tor\n"])

    def test_clients_may_write_a_call(self):
        self.assertEqual(bento_testing.run(call="main('Ada')").text, "hello Ada\n")
