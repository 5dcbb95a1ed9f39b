"""Counts its invocations in the storage that belongs to the function, and outlives each instance."""


def main():
    last = api.storage_get("count")
    count = int(last or 0) + 1
    api.storage_put("count", str(count))
    api.send("%d\n" % count)
