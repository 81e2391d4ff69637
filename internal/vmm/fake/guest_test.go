package fake

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// testGuest does what vmmtest's program testguest does. What it must remember it
// keeps in the machine's memory, or in the files of its disks.
func testGuest(conn net.Conn) {
	r, m := bufio.NewReader(conn), Of(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		answer := testAnswer(m, strings.Fields(line))
		if answer == "" {
			answer = strings.TrimSuffix(line, "\n")
		}
		if _, err := io.WriteString(conn, answer+"\n"); err != nil {
			return
		}
	}
}

func testAnswer(m *Machine, words []string) string {
	counter, page := 1<<20, m.Memory()
	if len(page) > 0 {
		page = page[2<<20:][:4096]
	}
	switch words[0] {
	case "!cpus":
		return "0-1"
	case "!clock":
		return fmt.Sprint(time.Now().UnixNano())
	case "!disks":
		return "vda:1024:ro vdb:2048:rw"
	case "!poweroff":
		m.PowerOff()
	case "!count":
		m.Memory()[counter]++
		return fmt.Sprint(m.Memory()[counter])
	case "!mark":
		clear(page)
		copy(page, "smolvm mark "+words[1]+"\n")
	case "!marked":
		line, _, _ := strings.Cut(string(page), "\n")
		return strings.TrimPrefix(line, "smolvm mark ")
	case "!send":
		return sendFrame(m.Wire(), words[1])
	case "!receive":
		return receiveFrame(m.Wire())
	case "!write":
		return writeBlock(m.Files(diskIndex(words[1]))[0], words[2], words[3])
	case "!read":
		return readBlock(m.Files(diskIndex(words[1])), words[2])
	}
	return ""
}

func sendFrame(wire net.Conn, text string) string {
	frame, err := hex.DecodeString(text)
	if err == nil {
		_, err = wire.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
	}
	if err != nil && !errors.Is(err, syscall.EPIPE) { // a closed wire is none of the guest's concern
		return err.Error()
	}
	return "sent"
}

func receiveFrame(wire net.Conn) string {
	var head [4]byte
	if _, err := io.ReadFull(wire, head[:]); err != nil {
		return err.Error()
	}
	frame := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(wire, frame); err != nil {
		return err.Error()
	}
	return hex.EncodeToString(frame)
}

func diskIndex(name string) int { return int(name[2] - 'a') }

// writeBlock writes at the end of a file what a block holds from now on.
func writeBlock(path, block, word string) string {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "\nblock %s is %s.", block, word); err != nil {
		return err.Error()
	}
	return "written"
}

func readBlock(files []string, block string) string {
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return err.Error()
		}
		begin := "\nblock " + block + " is "
		if i := bytes.LastIndex(b, []byte(begin)); i >= 0 {
			word, _, _ := strings.Cut(string(b[i+len(begin):]), ".")
			return word
		}
	}
	return "-"
}
