package main

import (
	"encoding/hex"
	"os"

	"golang.org/x/sys/unix"
)

// card is the network card, opened by the first command that needs it.
var card networkCard

type networkCard struct{ fd int }

// etherTest is the type of the frames that are received, as the network has it: set
// aside for experiments.
const etherTest = 0x88b5

// maxMTU is the largest that the card's driver takes.
const maxMTU = 65535

// open brings the card up.
func (c *networkCard) open() error {
	if c.fd != 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, etherTest>>8|etherTest<<8&0xff00)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	req, err := unix.NewIfreq("eth0")
	if err != nil {
		return err
	}
	req.SetUint32(maxMTU)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFMTU, req); err != nil {
		return os.NewSyscallError("set the MTU", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return os.NewSyscallError("get flags", err)
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return os.NewSyscallError("bring up", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return os.NewSyscallError("find", err)
	}
	addr := &unix.SockaddrLinklayer{Protocol: etherTest>>8 | etherTest<<8&0xff00, Ifindex: int(req.Uint32())}
	if err := unix.Bind(fd, addr); err != nil {
		return os.NewSyscallError("bind", err)
	}
	c.fd = fd
	return nil
}

func (c *networkCard) send(text string) string {
	frame, err := hex.DecodeString(text)
	if err == nil {
		err = c.open()
	}
	if err == nil {
		_, err = unix.Write(c.fd, frame)
	}
	if err != nil {
		return err.Error()
	}
	return "sent"
}

func (c *networkCard) receive() string {
	if err := c.open(); err != nil {
		return err.Error()
	}
	frame := make([]byte, maxMTU+14)
	for {
		n, from, err := unix.Recvfrom(c.fd, frame, 0)
		if err != nil {
			return err.Error()
		}
		// One's own come back on such a socket too.
		if sender, ok := from.(*unix.SockaddrLinklayer); !ok || sender.Pkttype != unix.PACKET_OUTGOING {
			return hex.EncodeToString(frame[:n])
		}
	}
}
