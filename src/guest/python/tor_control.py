# A control port and a SOCKS port on the sandbox's own loopback, so that programs written for Stem run as functions
# (spec/tor-firewall 6). Command lines are parsed here, become the same typed calls that TypeScript functions make, and
# answers are written anew: no byte of a command ever reaches tor. Loaded when a function first connects to one of the
# ports. It serves the function that runs in this same process: its own enemy only; the box checks every call.

import binascii
import time
import _thread

CONTROL_PORT, SOCKS_PORT = 9051, 9050
VERSION = "0.4.8.1"
LINE_MAX = 64 * 1024
MAPS_MAX = 256
ATTACH_SECONDS = 120
DIRECTORY_SECONDS = 60
HIDDEN_HOP = "0" * 40
TOR_EVENTS = {"CIRC": "circuit", "HS_DESC": "onion", "BW": "bandwidth"}
OWN_EVENTS = ("STREAM",)
# Asked for by Stem itself or by many programs; nothing of the kind ever happens here.
SILENT_EVENTS = ("CONF_CHANGED", "SIGNAL", "NOTICE", "WARN", "ERR", "STATUS_CLIENT", "STATUS_GENERAL", "NETWORK_LIVENESS")
FLAGS = ("DiscardPK", "Detach", "V3Auth")


# --- Command lines ------------------------------------------------------------------------------------------

class Refused(Exception):
    """A reply other than 250."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def parse_command(line):
    """The verb in upper case and its arguments as (keyword or None, value). Samples:
    GETINFO version circuit-status
    SETCONF __LeaveStreamsUnattached="1" · ADD_ONION NEW:BEST Flags=DiscardPK Port=80,127.0.0.1:8080
    """
    words, at = [], 0
    while at < len(line):
        if line[at] == " ":
            at += 1
            continue
        start = at
        while at < len(line) and line[at] not in ' ="':
            at += 1
        keyword = None
        if at < len(line) and line[at] == "=" and at > start and words:
            keyword, at = line[start:at], at + 1
            start = at
        if at < len(line) and line[at] == '"' and at == start:
            value, at = _unquote(line, at)
        else:
            while at < len(line) and line[at] != " ":
                if line[at] == '"':
                    raise Refused(512, "A quoted string must begin its argument")
                at += 1
            value = line[start:at]
        words.append((keyword, value))
    if not words:
        raise Refused(500, "Empty command")
    verb = words[0][1].upper()
    if not verb.replace("_", "").isalnum() or not verb.isascii():
        raise Refused(510, "Unrecognized command")
    return verb, words[1:]


_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def _unquote(line, at):
    parts, at = [], at + 1
    while at < len(line):
        letter = line[at]
        if letter == '"':
            if at + 1 < len(line) and line[at + 1] != " ":
                raise Refused(512, "A quoted string must end its argument")
            return "".join(parts), at + 1
        if letter == "\\":
            at += 1
            if at >= len(line):
                break
            digits = 0
            while digits < 3 and at + digits < len(line) and line[at + digits] in "01234567":
                digits += 1
            if digits:
                parts.append(chr(int(line[at:at + digits], 8) & 255))
                at += digits
                continue
            letter = _ESCAPES.get(line[at], line[at])
        parts.append(letter)
        at += 1
    raise Refused(512, "A quoted string has no end")


def _one_line(text):
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:500]


def _positional(args, least, most):
    values = [value for keyword, value in args if keyword is None]
    if not least <= len(values) <= most:
        raise Refused(512, "Expected %d to %d arguments" % (least, most))
    return values


def _number(text, what):
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Refused(552, "Unknown %s" % what)
    return int(text)


# --- What is shared by all connections ----------------------------------------------------------------------

class TorControl:
    """Both ports. `adopt(socket, stream, on_end)` lets the runner's bridge carry bytes between the two."""

    def __init__(self, channel, sockets, real_connect, adopt, host_error):
        self.channel, self.sockets, self.real_connect = channel, sockets, real_connect
        self.adopt, self.HostError = adopt, host_error
        self.lock = _thread.allocate_lock()
        self.connections = set()
        self.streams = {}
        self.last_stream = 0
        self.leave_unattached = False
        self.maps = {}
        self.nym = 0
        self.onions = {}
        self._relays = (0, [])
        self._watching = set()
        self._listen(CONTROL_PORT, lambda socket: Connection(self, socket).run())
        self._listen(SOCKS_PORT, lambda socket: serve_socks(self, socket))

    def _listen(self, port, serve):
        listener = self.sockets.socket()
        listener.bind(("127.0.0.1", port))
        listener.listen(16)

        def run(socket):
            try:
                serve(socket)
            except (OSError, self.HostError):
                socket.close()

        def accept():
            while True:
                _thread.start_new_thread(run, (listener.accept()[0],))
        _thread.start_new_thread(accept, ())

    def ask(self, method, params):
        """The box's answer, or the reply that a controller gets for its refusal."""
        try:
            return self.channel.ask(method, params)
        except self.HostError as error:
            status = 552 if error.code in ("tor-unknown", "tor-no-path", "bad-call") else 551
            raise Refused(status, "%s (%s)" % (error, error.code)) from None
        except ValueError as error:
            raise Refused(512, str(error)) from None

    def lines(self, method, params):
        """The objects that a call sends, one a line."""
        stream = self.channel.call(method, params)
        try:
            stream.answer()
            held = b""
            while data := stream.read():
                stream.consumed(len(data))
                *whole, held = (held + data).split(b"\n")
                for line in whole:
                    yield self.channel.from_json(line)
        finally:
            self.channel.streams.pop(stream.number, None)

    def all_lines(self, method):
        try:
            return list(self.lines(method, {}))
        except self.HostError as error:
            raise Refused(551, "%s (%s)" % (error, error.code)) from None

    def relays(self):
        at, found = self._relays
        if not found or time.monotonic() - at > DIRECTORY_SECONDS:
            found = self.all_lines("tor.relays")
            self._relays = (time.monotonic(), found)
        return found

    def watch(self, kinds):
        """Begins to pass on what the box tells of these kinds."""
        with self.lock:
            new = [kind for kind in kinds if kind not in self._watching]
            self._watching.update(new)
        for kind in new:
            events = self.channel.call("tor.watch", {"kinds": [kind]})
            try:
                events.answer()
            except self.HostError as error:
                self._watching.discard(kind)
                raise Refused(552, "%s (%s)" % (error, error.code)) from None
            _thread.start_new_thread(self._pass_on, (events, kind))

    def _pass_on(self, stream, kind):
        held = b""
        try:
            while data := stream.read():
                stream.consumed(len(data))
                *whole, held = (held + data).split(b"\n")
                for line in whole:
                    self.on_event(self.channel.from_json(line))
        except self.HostError:
            pass  # tor is gone: the next SETEVENTS begins anew
        finally:
            self._watching.discard(kind)

    def on_event(self, event):
        kind = event["kind"]
        reason = " REASON=%s" % event["reason"] if "reason" in event else ""
        if kind == "circuit":
            self.tell("CIRC", "%s%s" % (circuit_line(event), reason))
        elif kind == "bandwidth":
            self.tell("BW", "%d %d" % (event["read"], event["written"]))
        elif kind == "onion" and event["status"] != "closed":
            address = self.onions.get(event["onion"])
            if address:
                directory = "$" + event["directory"] if event["directory"] else "UNKNOWN"
                self.tell("HS_DESC", "%s %s UNKNOWN %s%s" % (event["status"].upper(), address, directory, reason))

    def tell(self, name, text):
        for connection in list(self.connections):
            if name in connection.events:
                connection.write("650 %s %s\r\n" % (name, text))

    def tell_stream(self, stream, status, more=""):
        self.tell("STREAM", "%d %s %s %s%s" % (stream.number, status, stream.circuit or 0, stream.target, more))


def circuit_line(state):
    """Sample: 1 BUILT $AB..,$CD.. PURPOSE=GENERAL. A hop that the box keeps to itself shows as zeros."""
    path = ",".join("$" + (hop or HIDDEN_HOP) for hop in state["path"])
    return "%d %s%s PURPOSE=GENERAL" % (state["circuit"], state["status"].upper(), " " + path if path else "")


# --- The control port ---------------------------------------------------------------------------------------

class Connection:
    def __init__(self, tor, socket):
        self.tor, self._socket = tor, socket
        self._lock = _thread.allocate_lock()
        self._authenticated = False
        self._onions = []
        self.events = frozenset()

    def write(self, text):
        with self._lock:
            try:
                self._socket.sendall(text.encode())
            except OSError:
                self.events = frozenset()

    def run(self):
        self.tor.connections.add(self)
        try:
            held = b""
            while True:
                data = self._socket.recv(4096)
                if not data:
                    return
                held += data
                while b"\n" in held:
                    line, held = held.split(b"\n", 1)
                    if not self._on_line(line.rstrip(b"\r")):
                        return
                if len(held) > LINE_MAX:
                    self.write("500 Line too long\r\n")
                    return
        finally:
            self.tor.connections.discard(self)
            self._socket.close()
            # As at tor: services without Detach end with their connection.
            for onion in self._onions:
                self._close_onion(onion)

    _in_data = False

    def _on_line(self, line):
        """Whether the connection goes on."""
        if self._in_data:
            self._in_data = line != b"."
            return True
        if line.startswith(b"+"):
            self._in_data = True
            self.write("510 Commands with data are not possible here\r\n")
            return True
        try:
            verb, args = parse_command(line.decode("utf-8", "replace"))
            if verb == "QUIT":
                self.write("250 closing connection\r\n")
                return False
            if not self._authenticated and verb not in ("PROTOCOLINFO", "AUTHENTICATE"):
                self.write("514 Authentication required.\r\n")
                return False
            handler = getattr(self, "_do_" + verb.lower(), None)
            if handler is None:
                raise Refused(510, 'Unrecognized command "%s": functions have circuits, streams, onion services, events and the directory' % verb)
            self.write(handler(args))
        except Refused as error:
            self.write("%d %s\r\n" % (error.status, _one_line(str(error))))
        return True

    def _do_protocolinfo(self, _args):
        return '250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor="%s"\r\n250 OK\r\n' % VERSION

    def _do_authenticate(self, _args):
        self._authenticated = True
        return "250 OK\r\n"

    def _do_usefeature(self, args):
        for feature in _positional(args, 0, 8):
            if feature.upper() not in ("EXTENDED_EVENTS", "VERBOSE_NAMES"):
                raise Refused(552, 'Unrecognized feature "%s"' % feature)
        return "250 OK\r\n"

    # Information.

    def _do_getinfo(self, args):
        parts = []
        for key in _positional(args, 1, 64):
            value = self._info(key)
            if "\n" in value:
                lines = [("." if line.startswith(".") else "") + line for line in value.split("\n")]
                parts.append("250+%s=\r\n%s\r\n.\r\n" % (key, "\r\n".join(lines)))
            else:
                parts.append("250-%s=%s\r\n" % (key, value))
        return "".join(parts) + "250 OK\r\n"

    def _info(self, key):
        tor = self.tor
        fixed = {
            "version": VERSION,
            "status/bootstrap-phase": 'NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"',
            "status/circuit-established": "1",
            "network-liveness": "up",
            "events/names": " ".join((*TOR_EVENTS, *OWN_EVENTS, *SILENT_EVENTS)),
            "features/names": "VERBOSE_NAMES EXTENDED_EVENTS",
            "signal/names": "NEWNYM",
            "net/listeners/socks": '"127.0.0.1:%d"' % SOCKS_PORT,
            "net/listeners/control": '"127.0.0.1:%d"' % CONTROL_PORT,
            "onions/detached": "",
        }
        if key in fixed:
            return fixed[key]
        if key == "circuit-status":
            return "\n".join(circuit_line(state) for state in tor.all_lines("tor.circuits"))
        if key == "stream-status":
            return "\n".join(
                "%d %s %s %s" % (stream.number, stream.status, stream.circuit or 0, stream.target)
                for stream in list(tor.streams.values())
            )
        if key == "onions/current":
            return "\n".join(tor.onions[onion] for onion in self._onions if onion in tor.onions)
        head, _, rest = key.rpartition("/")
        if key == "ns/all":
            return "\n".join(map(status_entry, tor.relays()))
        if head in ("ns/id", "ns/name"):
            return status_entry(self._relay(rest))
        if head in ("md/id", "md/name"):
            fingerprint = self._relay(rest)["fingerprint"]
            text = tor.ask("tor.descriptor", {"fingerprint": fingerprint})["text"]
            if text is None:
                raise Refused(552, "No such microdescriptor")
            return text.rstrip("\n")
        if head == "ip-to-country":
            countries = [relay["country"] for relay in tor.relays() if rest in relay["addresses"]]
            return countries[0] if countries and countries[0] else "??"
        raise Refused(552, 'Unrecognized key "%s"' % key)

    def _relay(self, name):
        """A relay by $FINGERPRINT~nickname, fingerprint or nickname."""
        text = name.lstrip("$").replace("=", "~").split("~")[0]
        for relay in self.tor.relays():
            if text.upper() == relay["fingerprint"] or text == relay["nickname"]:
                return relay
        raise Refused(552, 'No such router "%s"' % name)

    def _do_getconf(self, args):
        values = {
            "__leavestreamsunattached": "__LeaveStreamsUnattached=%d" % self.tor.leave_unattached,
            "__owningcontrollerprocess": "__OwningControllerProcess",
            "socksport": "SocksPort=%d" % SOCKS_PORT,
            "controlport": "ControlPort=%d" % CONTROL_PORT,
            "usemicrodescriptors": "UseMicrodescriptors=1",
            "fetchuselessdescriptors": "FetchUselessDescriptors=0",
        }
        names = _positional(args, 1, 64)
        for name in names:
            if name.lower() not in values:
                raise Refused(552, 'Unrecognized configuration key "%s"' % name)
        lines = [values[name.lower()] for name in names]
        return "".join("250-%s\r\n" % line for line in lines[:-1]) + "250 %s\r\n" % lines[-1]

    def _do_setconf(self, args):
        wanted = None
        for keyword, value in args:
            name, value = (value, "0") if keyword is None else (keyword, value)
            if name.lower() != "__leavestreamsunattached":
                raise Refused(553, 'Cannot set "%s": a function may set __LeaveStreamsUnattached, for its own streams' % name)
            if value not in ("0", "1"):
                raise Refused(553, "Unacceptable option value: expected 0 or 1")
            wanted = value == "1"
        if wanted is not None:
            self.tor.leave_unattached = wanted
        return "250 OK\r\n"

    _do_resetconf = _do_setconf

    def _do_setevents(self, args):
        names = {name.upper() for name in _positional(args, 0, 64)} - {"EXTENDED"}
        for name in names:
            if name not in TOR_EVENTS and name not in OWN_EVENTS and name not in SILENT_EVENTS:
                raise Refused(552, 'Unrecognized event "%s"' % name)
        self.tor.watch([kind for name, kind in TOR_EVENTS.items() if name in names])
        self.events = frozenset(names)
        return "250 OK\r\n"

    def _do_signal(self, args):
        signal = _positional(args, 1, 1)[0].upper()
        if signal == "NEWNYM":
            # New streams go on circuits that none of the earlier ones was on. Nobody else's are touched.
            self.tor.nym += 1
        elif signal not in ("CLEARDNSCACHE", "HEARTBEAT"):
            raise Refused(552, 'Cannot signal "%s": a function may ask for NEWNYM' % signal)
        return "250 OK\r\n"

    # Circuits.

    def _do_extendcircuit(self, args):
        words = _positional(args, 1, 2)
        circuit = _number(words[0], "circuit")
        for keyword, value in args:
            if keyword is not None and (keyword.lower() != "purpose" or value.lower() not in ("general", "controller")):
                raise Refused(552, 'Unknown argument "%s"' % keyword)
        if len(words) == 2:
            hops = [self._relay(name)["fingerprint"] for name in words[1].split(",")]
        else:
            hops = [None, {}, {"flags": ["Exit"]}]
        if circuit == 0:
            circuit = self.tor.ask("tor.launch", {"hops": hops})["circuit"]
        elif len(words) == 2:
            self.tor.ask("tor.extend", {"circuit": circuit, "hops": hops})
        else:
            raise Refused(512, "syntax error: a path is needed")
        return "250 EXTENDED %d\r\n" % circuit

    def _do_closecircuit(self, args):
        self.tor.ask("tor.close", {"circuit": _number(_positional(args, 1, 2)[0], "circuit")})
        return "250 OK\r\n"

    # Streams.

    def _stream(self, text):
        stream = self.tor.streams.get(_number(text, "stream"))
        if stream is None:
            raise Refused(552, 'Unknown stream "%s"' % text)
        return stream

    def _do_attachstream(self, args):
        words = _positional(args, 2, 2)
        if len(args) != 2:
            raise Refused(552, "Cannot attach: only to the last hop")
        stream, circuit = self._stream(words[0]), _number(words[1], "circuit")
        if circuit and all(state["circuit"] != circuit for state in self.tor.all_lines("tor.circuits")):
            raise Refused(552, 'Unknown circuit "%s"' % words[1])
        if not stream.decide(circuit):
            raise Refused(555, "Connection is not managed by controller.")
        return "250 OK\r\n"

    def _do_closestream(self, args):
        self._stream(_positional(args, 1, 3)[0]).close()
        return "250 OK\r\n"

    def _do_mapaddress(self, args):
        new = []
        for keyword, value in args:
            if keyword is None or not value or keyword == "0.0.0.0":
                raise Refused(512, "syntax error: expected name=other")
            new.append((keyword.lower(), value))
        maps = dict(self.tor.maps)
        for name, value in new:
            maps.pop(name, None)
            if name != value.lower():
                maps[name] = value
        if len(maps) > MAPS_MAX:
            raise Refused(551, "Too many mappings")
        self.tor.maps = maps
        lines = ["%s=%s" % pair for pair in new] or ["OK"]
        return "".join("250-%s\r\n" % line for line in lines[:-1]) + "250 %s\r\n" % lines[-1]

    # Onion services.

    def _do_add_onion(self, args):
        key, params, targets, clients = _positional(args, 1, 1)[0], {}, {}, []
        flags = []
        for keyword, value in args:
            name = (keyword or "").lower()
            if name == "port":
                port, target = self._target(value)
                targets[port] = target
            elif name == "flags":
                flags = value.split(",")
            elif name == "maxstreams":
                params["streamsMax"] = _number(value, "number of streams")
            elif name == "clientauthv3":
                clients.append(value)
            elif name:
                raise Refused(512, 'Unknown argument "%s"' % keyword)
        for flag in flags:
            if flag not in FLAGS:
                raise Refused(512, 'Cannot add onion service: flag "%s" is not possible here' % flag)
        if key in ("NEW:BEST", "NEW:ED25519-V3"):
            params["keepsKey"] = "DiscardPK" not in flags
        elif key.startswith("ED25519-V3:"):
            params["key"] = key
        else:
            raise Refused(513, "Cannot add onion service: expected NEW:ED25519-V3 or ED25519-V3:KEY")
        if params.get("streamsMax") == 0:
            del params["streamsMax"]
        if clients:
            params["clientKeys"] = clients
        params["ports"] = list(targets)
        opened = self.tor.ask("tor.onion.open", params)
        onion, address = opened["onion"], opened["address"][:-len(".onion")]
        self.tor.onions[onion] = address
        if "Detach" not in flags:
            self._onions.append(onion)
        _thread.start_new_thread(serve_onion, (self.tor, onion, targets))
        lines = ["250-ServiceID=%s\r\n" % address]
        if opened["key"]:
            lines.append("250-PrivateKey=%s\r\n" % opened["key"])
        lines += ["250-ClientAuthV3=%s\r\n" % client for client in clients]
        return "".join(lines) + "250 OK\r\n"

    @staticmethod
    def _target(text):
        """80 · 80,8080 · 80,127.0.0.1:8080: a port of the sandbox's own loopback."""
        port, _, target = text.partition(",")
        host, _, own = target.rpartition(":")
        if host not in ("", "127.0.0.1", "localhost"):
            raise Refused(512, "Cannot add onion service: its target must be a port of 127.0.0.1")
        return _number(port, "port"), _number(own or port, "port")

    def _do_del_onion(self, args):
        address = _positional(args, 1, 1)[0]
        for onion, known in list(self.tor.onions.items()):
            if known == address:
                if onion in self._onions:
                    self._onions.remove(onion)
                self._close_onion(onion)
                return "250 OK\r\n"
        raise Refused(552, "Unknown Onion Service id")

    def _close_onion(self, onion):
        self.tor.onions.pop(onion, None)
        try:
            self.tor.ask("tor.onion.close", {"onion": onion})
        except Refused:
            pass  # it ended by itself


def status_entry(relay):
    """As dir-spec 3.4.1 writes it. Digest and time of publication are not told: zeros, and the last moment of all."""
    identity = binascii.b2a_base64(bytes.fromhex(relay["fingerprint"])).decode().rstrip("=\n")
    lines = [
        "r %s %s %s 2038-01-01 00:00:00 %s %d 0" % (relay["nickname"], identity, "A" * 27, relay["addresses"][0], relay["orPort"]),
        "s " + " ".join(relay["flags"]),
        "w Bandwidth=%d" % relay["bandwidth"],
    ]
    if relay["exit"]:
        lines.append("p %s %s" % (relay["exit"]["kind"], relay["exit"]["ports"]))
    return "\n".join(lines)


def serve_onion(tor, onion, targets):
    """Carries incoming connections to their targets until the service ends."""
    while True:
        stream = tor.channel.call("tor.onion.accept", {"onion": onion})
        try:
            port = stream.answer()["port"]
        except tor.HostError:
            tor.channel.streams.pop(stream.number, None)
            return
        socket = tor.sockets.socket()
        try:
            tor.real_connect(socket, ("127.0.0.1", targets[port]))
            tor.adopt(socket, stream)
        except OSError:
            socket.close()
            stream.close()


# --- The SOCKS port -----------------------------------------------------------------------------------------

class SocksStream:
    def __init__(self, tor, target, socket):
        self.tor, self.target, self._socket = tor, target, socket
        self.circuit, self.status = 0, "NEW"
        self._decided = _thread.allocate_lock()
        self._decided.acquire()
        self._waits = True
        with tor.lock:
            tor.last_stream += 1
            self.number = tor.last_stream
            tor.streams[self.number] = self

    def decide(self, circuit):
        """Whether it was waiting for this."""
        with self.tor.lock:
            if not self._waits:
                return False
            self._waits = False
        self.circuit = circuit
        self._decided.release()
        return True

    def place(self):
        """Waits until a controller has chosen a circuit, where they want to. False when none did."""
        if not self.tor.leave_unattached:
            return self.decide(0)
        return self._decided.acquire(True, ATTACH_SECONDS)

    def tell(self, status, more=""):
        self.status = status
        self.tor.tell_stream(self, status, more)

    def close(self):
        try:
            self._socket.shutdown(2)
        except OSError:
            pass  # it has gone already

    def end(self, reason="DONE"):
        if self.tor.streams.pop(self.number, None):
            self.tell("CLOSED", " REASON=" + reason)


_REPLIES = {
    "tor-exit-refused": 2, "tor-refused": 2, "tor-unreachable": 4, "tor-connection-refused": 5, "tor-timeout": 6,
    "tor-bad-address": 8,
}


def serve_socks(tor, socket):
    """RFC 1928 and 1929: CONNECT, and tor's RESOLVE (0xF0)."""
    def read(count):
        data = b""
        while len(data) < count:
            part = socket.recv(count - len(data))
            if not part:
                raise OSError("ended in its request")
            data += part
        return data

    version, count = read(2)
    methods = read(count)
    if version != 5:
        raise OSError("not SOCKS5")
    user = password = b""
    if 2 in methods:
        socket.sendall(b"\x05\x02")
        user = read(read(2)[1])
        password = read(read(1)[0])
        socket.sendall(b"\x01\x00")
    else:
        socket.sendall(b"\x05\x00")
    _version, command, _zero, kind = read(4)
    if kind == 1:
        host = ".".join(map(str, read(4)))
    elif kind == 3:
        host = read(read(1)[0]).decode("utf-8", "replace")
    elif kind == 4:
        groups = read(16).hex()
        host = ":".join(groups[at:at + 4] for at in range(0, 32, 4))
    else:
        raise OSError("unknown kind of address")
    port = int.from_bytes(read(2), "big")

    def reply(code, address=b"\x01\x00\x00\x00\x00"):
        socket.sendall(bytes((5, code, 0)) + address + b"\x00\x00")

    if command not in (1, 0xF0):
        reply(7)
        socket.close()
        return
    stream = SocksStream(tor, "%s:%d" % (host, port), socket)
    peer = socket.getpeername()
    stream.tell("NEW" if command == 1 else "NEWRESOLVE", " SOURCE_ADDR=%s:%d PURPOSE=USER" % peer)
    call = None
    try:
        if not stream.place():
            raise tor.HostError("tor-timeout", "no controller attached the stream")
        params = {"host": tor.maps.get(host.lower(), host)}
        if stream.circuit:
            params["circuit"] = stream.circuit
        else:
            params["isolation"] = "%d %d" % (tor.nym, hash((user, password)))
        stream.tell("SENTCONNECT" if command == 1 else "SENTRESOLVE")
        if command == 0xF0:
            address = tor.channel.ask("tor.resolve", params)["address"]
            octets = bytes(map(int, address.split("."))) if "." in address else None
            stream.tell("SUCCEEDED")
            reply(0, b"\x01" + octets) if octets else reply(8)
            socket.close()
            stream.end()
            return
        params["port"] = port
        call = tor.channel.call("tor.connect", params)
        call.answer()
        stream.tell("SUCCEEDED")
        reply(0)
        tor.adopt(socket, call, stream.end)
    except tor.HostError as error:
        if call is not None:
            tor.channel.streams.pop(call.number, None)
        stream.tell("FAILED", " REASON=%s" % ("TIMEOUT" if error.code == "tor-timeout" else "MISC"))
        stream.end("MISC")
        reply(_REPLIES.get(error.code, 1))
        socket.close()
    except OSError:
        if call is not None:
            call.close()
        stream.end("MISC")
        raise
