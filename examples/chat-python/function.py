"""A conversation: answers each message until the client ends its input, then says how many there were."""


def main():
    count = 0
    api.send("Say something.\n")
    while True:
        try:
            message = api.recv()
        except EOFError:
            break
        count += 1
        api.send("You said: %s\n" % message.decode().rstrip())
    api.send("That was %s.\n" % ("1 message" if count == 1 else "%d messages" % count))
