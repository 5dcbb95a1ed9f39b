import unittest

import bento_testing


class Counter(unittest.TestCase):
    def test_goes_on_where_the_last_instance_ended(self):
        with bento_testing.install() as counter:
            self.assertEqual([counter.run().text for _ in range(3)], ["1\n", "2\n", "3\n"])

    def test_each_installed_function_counts_for_itself(self):
        with bento_testing.install() as one, bento_testing.install() as other:
            one.run()
            self.assertEqual(other.run().text, "1\n")
