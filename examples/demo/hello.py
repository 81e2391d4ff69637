"""What code in a sandbox sees: a computer of its own, and nothing of the host."""

import os
import platform
import socket

print("Hello from a sandbox.")
print("kernel:    ", platform.release())
print("host name: ", socket.gethostname())
print("CPUs:      ", os.cpu_count())
print("memory:    ", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20, "MiB")
print("network:   ", ", ".join(name for _, name in socket.if_nameindex() if name != "lo") or "none")
print("6 * 7 =    ", 6 * 7)
