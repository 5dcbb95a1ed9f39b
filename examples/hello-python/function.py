"""Greets whoever it is told to: one message for each argument."""


def main(*names):
    api.log.info("greeting %d" % (len(names) or 1))
    for name in names or ["world"]:
        api.send("hello %s\n" % name)
