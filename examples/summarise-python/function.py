"""Fetches a page at the box, and sends a few lines about it in place of the page."""

import re

import requests

PAGE_BYTES_MAX = 2 * 2**20


def summarise(url):
    with requests.get(url, timeout=30, stream=True) as response:
        page = b""
        # A page decides how long it is: not more than this is kept.
        for part in response.iter_content(65536):
            page += part
            if len(page) > PAGE_BYTES_MAX:
                break
        api.log.info("status %d, %d bytes" % (response.status_code, len(page)))
    text = page.decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.I | re.S)
    links = set(re.findall(r"<a\b[^>]*\bhref=[\"']([^\"']+)", text, re.I))
    words = re.sub(r"<[^>]*>", " ", re.sub(r"<(script|style)\b.*?</\1\s*>", " ", text, flags=re.I | re.S)).split()
    api.send(
        "title: %s\nwords: %d\nlinks: %d\n"
        % (title.group(1).strip() if title else "(none)", len(words), len(links))
    )
