# Runs inside a box (or outside, as the control) and does what it is told: one JSON request per line on stdin,
# one JSON answer per line on stdout. `seq` is a list of raw system calls, `eval` is Python source.
import ctypes
import json
import mmap
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def sys_call(number, *arguments):
    keep = []
    values = []
    for argument in arguments:
        if isinstance(argument, (bytes, bytearray)):
            buffer = ctypes.create_string_buffer(bytes(argument), len(argument) + 1)
            keep.append(buffer)
            values.append(ctypes.c_long(ctypes.addressof(buffer)))
        else:
            values.append(ctypes.c_long(argument))
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *values)
    return result, ctypes.get_errno()


def run_code(code):
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


def decode(argument, results):
    if isinstance(argument, dict):
        if "s" in argument:
            return argument["s"].encode() + b"\0"
        if "b" in argument:
            return bytes.fromhex(argument["b"])
        return results[argument["r"]]
    return argument


def answer(request):
    if "code" in request:
        return {"value": run_code(bytes.fromhex(request["code"]))}
    if "seq" in request:
        results = []
        for at, (number, *arguments) in enumerate(request["seq"]):
            result, error = sys_call(number, *[decode(each, results) for each in arguments])
            if result == -1:
                return {"errno": error, "at": at}
            if result == 0 and os.getpid() != own_pid:
                sys_call(request["exitChild"], 0)
            results.append(result)
        return {"value": results[-1]}
    scope = {"sys_call": sys_call}
    exec(request["eval"], scope)
    return {"value": scope.get("value")}


own_pid = os.getpid()
print("ready", flush=True)
for line in sys.stdin:
    try:
        reply = answer(json.loads(line))
    except OSError as error:
        reply = {"errno": error.errno or 0, "error": repr(error)}
    except BaseException as error:
        reply = {"error": repr(error)}
    os.write(1, (json.dumps(reply) + "\n").encode())
