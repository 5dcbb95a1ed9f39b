import unittest

import bento_testing

PAGE = """<!doctype html><title>Onions</title><style>p { color: red }</style>
<p>Layers <a href="/a">upon</a> <a href="/b">layers</a>, <a href="/a">again</a>.</p>"""


class Summarise(unittest.TestCase):
    def test_says_what_a_page_holds(self):
        with bento_testing.serve({"/page": PAGE}) as site:
            text = bento_testing.run(site.url + "/page").text
        self.assertRegex(text, r"^title: Onions\nwords: \d+\nlinks: 2\n$")

    def test_wants_a_url(self):
        with self.assertRaisesRegex(bento_testing.FunctionFailed, "Invalid URL"):
            bento_testing.run("onions")
