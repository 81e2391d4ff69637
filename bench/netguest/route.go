package main

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// defaultRoute asks the kernel over netlink (rtnetlink(7)).
func defaultRoute(gateway [4]byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const size = unix.SizeofNlMsghdr + unix.SizeofRtMsg + unix.SizeofRtAttr + 4
	host := binary.NativeEndian
	b := host.AppendUint32(nil, size)
	b = host.AppendUint16(b, unix.RTM_NEWROUTE)
	b = host.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	b = append(b, make([]byte, 8)...) // sequence and port
	b = append(b, unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST)
	b = append(b, make([]byte, 4)...) // flags
	b = host.AppendUint16(b, unix.SizeofRtAttr+4)
	b = host.AppendUint16(b, unix.RTA_GATEWAY)
	b = append(b, gateway[:]...)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 256)
	k, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil || k < unix.SizeofNlMsghdr+4 {
		return err
	}
	if code := int32(host.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
