"""A throw-away child for every call that goes into a FUSE mount, because such a call can hang for ever.

    python -I -S probe.py open FD PATH SOCKET_FD     send back an O_PATH file of PATH beneath FD
    python -I -S probe.py statfs FD                  print six numbers

It imports only what it needs, so that it starts in some 20 ms. Exit code 3 and an errno on stdout: the call failed.
"""

import os
import sys


def main(words: list[str]) -> int:
    try:
        if words[0] == "open":
            import socket

            fd = int(words[1])
            for part in words[2].split("/"):
                fd = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            with socket.socket(fileno=int(words[3])) as peer:
                socket.send_fds(peer, [b"fd"], [fd])
        else:
            numbers = os.statvfs(int(words[1]))
            unit = numbers.f_frsize
            print(
                unit * numbers.f_blocks,
                unit * numbers.f_bfree,
                unit * numbers.f_bavail,
                numbers.f_files,
                numbers.f_ffree,
            )
    except OSError as error:
        print(error.errno)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
