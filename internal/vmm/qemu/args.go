package qemu

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/vmm"
)

// plan is all that QEMU's command line depends on.
type plan struct {
	vmm.Config
	accel api.Accel // resolved
	print string    // the fingerprint, for the machine; no argument
	lap   func(string)
}

// reach tells who measures how far the start has come.
func (p plan) reach(phase string) {
	if p.lap != nil {
		p.lap(phase)
	}
}

// machine is the machine type.
//
// microvm has no PCI, no firmware tables but ACPI and so nothing to probe: the
// fastest to boot and the least to attack. Under TCG it cannot boot: its clocks
// are those of KVM, and without them Linux waits for a timer that is not there.
func (p plan) machine() string {
	if p.accel == api.AccelKVM {
		return "microvm"
	}
	return "q35"
}

// args returns QEMU's arguments. The descriptors they name are those of wires.
func (p plan) args() []string {
	var a []string
	for _, part := range [][]string{
		p.baseArgs(), p.machineArgs(), p.memoryArgs(), p.beginArgs(), p.portArgs(), p.channelArgs(), p.randomArgs(), p.networkArgs(), p.diskArgs(),
	} {
		a = append(a, part...)
	}
	return a
}

// beginArgs says how the machine begins: with a kernel, or as a saved one.
func (p plan) beginArgs() []string {
	if p.Restore == nil {
		return p.bootArgs()
	}
	// Without -kernel and -initrd, which QEMU would read and keep though the guest
	// has them in its memory. -S: loaded, it waits for Resume.
	return []string{"-incoming", "defer", "-S"}
}

func (p plan) baseArgs() []string {
	a := []string{
		"-name", "guest=" + escape(p.Name),
		"-no-user-config", "-nodefaults", "-display", "none",
		"-no-reboot", // a reset ends the machine: it never boots twice
	}
	if p.NoSeccomp {
		return a
	}
	return append(a, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
}

// tbCacheMiB bounds TCG's cache of translated code. QEMU's own bound is an eighth
// of the host's memory up to 1 GiB for each machine, which is never given back. A
// boot fills 47 MiB of it. When it is full QEMU drops it all and translates anew.
const tbCacheMiB = 256

func (p plan) machineArgs() []string {
	// mem-merge: merged pages would let one guest time what another holds.
	// dump-guest-core: guest memory has no business in a core dump of the host.
	private := ",mem-merge=off,dump-guest-core=off"
	if p.Memory != nil {
		// No description of the state in JSON after it: it takes longer than the state.
		private += ",suppress-vmdesc=on,memory-backend=" + memoryID
	}
	sizes := []string{"-smp", strconv.Itoa(p.CPUs), "-m", strconv.Itoa(p.MemoryMiB) + "M"}
	if p.accel == api.AccelKVM {
		return append([]string{
			// auto-kernel-cmdline describes devices to kernels that take no ACPI.
			"-machine", "microvm,acpi=on,rtc=on,usb=off,pcie=off,auto-kernel-cmdline=off" + private,
			"-accel", "kvm", "-cpu", "host",
			"-global", "virtio-mmio.force-legacy=false",
		}, sizes...)
	}
	return append([]string{
		// Each device left out is one less to probe at boot and to attack after.
		"-machine", "q35,usb=off,sata=off,smbus=off,vmport=off,i8042=off,graphics=off" + private,
		"-accel", fmt.Sprintf("tcg,thread=multi,tb-size=%d", tbCacheMiB), "-cpu", "max",
	}, sizes...)
}

// memoryID is the name of the memory backend.
const memoryID = "ram0"

// memoryArgs puts a file behind guest memory, and makes the machine one that can
// be saved.
func (p plan) memoryArgs() []string {
	if p.Memory == nil {
		return nil
	}
	share := "off"
	if p.Memory.Shared {
		share = "on"
	}
	return []string{
		"-object", fmt.Sprintf("memory-backend-file,id=%s,size=%dM,mem-path=%s,share=%s,merge=off,dump=off",
			memoryID, p.MemoryMiB, escape(p.Memory.Path), share),
		// The state of devices alone, which is what we save, comes without this part.
		"-global", "migration.send-configuration=off",
	}
}

func (p plan) bootArgs() []string {
	return []string{"-kernel", p.Kernel, "-initrd", p.Initrd, "-append", p.kernelArgs()}
}

// kernelArgs returns the guest kernel's command line. The order matters only in
// that the caller's arguments come last and so win.
func (p plan) kernelArgs() string {
	a := []string{
		"console=ttyS0", "quiet", // boot messages cost time, on a serial port above all
		"panic=-1", "reboot=t", // a panic resets at once, by the one way that needs no firmware
		"rdinit=/init",
	}
	if p.accel == api.AccelTCG {
		a = append(a, tcgKernelArgs()...)
	}
	if p.Args != "" {
		a = append(a, p.Args)
	}
	return strings.Join(a, " ")
}

// tcgKernelArgs saves what is slow under emulation.
func tcgKernelArgs() []string {
	return []string{
		// TCG's counter is the host's, the same on all CPUs, but the guest cannot know
		// and would use the HPET: each look at the clock then leaves translated code.
		"tsc=reliable",
		// 0.4 s of a boot: the known-answer tests of each cipher.
		"cryptomgr.notests",
		// The kernel counts timer ticks for a moment and panics where there are too few,
		// as on a host so busy that the guest hardly runs. The timer is known to work.
		"no_timer_check",
		// Return trampolines, which TCG cannot predict, against leaks of a processor
		// that is not there.
		"mitigations=off",
		// TCG keeps translated code by its address: programs that come to lie at the
		// same place each time are not translated anew at each exec. Halves the time
		// of one. See docs/decisions/0005.
		"norandmaps",
	}
}

// portArgs gives QMP and the guest's console their descriptors.
func (p plan) portArgs() []string {
	return []string{
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", fdQMP), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", fdConsole), "-serial", "chardev:console",
	}
}

// channelArgs makes the channel: a port of virtio-serial whose other end is the
// listening socket that QEMU inherits, so that it may be dialled many times.
func (p plan) channelArgs() []string {
	return []string{
		"-chardev", fmt.Sprintf("socket,id=channel,fd=%d,server=on,wait=off", fdChannel),
		"-device", p.device("virtio-serial", "serial", slotSerial) + ",max_ports=2", // port 0 is for a console
		"-device", "virtserialport,bus=serial.0,nr=1,chardev=channel,name=" + vmm.ChannelName,
	}
}

// randomArgs gives the guest random numbers, 1 KiB a second: enough to seed the
// kernel's own generator, too little to keep the host busy.
func (p plan) randomArgs() []string {
	return []string{
		"-object", "rng-builtin,id=random0",
		"-device", p.device("virtio-rng", "random", slotRandom) + ",rng=random0,max-bytes=1024,period=1000",
	}
}

// networkArgs puts the network card between the guest and the wire.
func (p plan) networkArgs() []string {
	if p.Network == nil {
		return nil
	}
	card := p.device("virtio-net", "card", slotNetwork) + fmt.Sprintf(",netdev=net0,mac=%s", net.HardwareAddr(p.Network.MAC[:]))
	if p.machine() != "microvm" {
		card += ",romfile=" // no firmware to boot from a network
	}
	return []string{
		"-netdev", fmt.Sprintf("stream,id=net0,addr.type=fd,addr.str=%d", fdNetwork),
		"-device", card,
		// A continued machine would tell the wire, and have its guest tell it too, where
		// it is now: five times, and nobody there has to learn it.
		"-global", "migration.announce-rounds=0",
	}
}

// wire is the card's wire; nil where there is none.
func (p plan) wire() *os.File {
	if p.Network == nil {
		return nil
	}
	return p.Network.Wire
}

func (p plan) diskArgs() []string {
	var a []string
	for i, d := range p.Disks {
		for _, n := range diskNodes(i, d) {
			a = append(a, "-blockdev", n.json())
		}
		// On an error the guest gets it. QEMU's default is to stop the machine when
		// the host's disk is full, which looks like a hang and nobody is told.
		a = append(a, "-device", p.device("virtio-blk", fmt.Sprint("disk", i), slotDisk+i)+
			fmt.Sprintf(",drive=%s,num-queues=1,werror=report,rerror=report", topNode(i)))
	}
	return a
}

// Slots of the devices on the PCI bus. They are fixed because the guest names
// disks in their order, and because a saved machine is loaded into the same ones.
const (
	slotSerial  = 2
	slotRandom  = 3
	slotNetwork = 4
	slotDisk    = 16 // and the next ones; those between are free
)

// device returns the -device value of a virtio device.
func (p plan) device(kind, id string, slot int) string {
	if p.machine() == "microvm" {
		return fmt.Sprintf("%s-device,id=%s", kind, id)
	}
	// Non-transitional: without the I/O ports of old drivers.
	return fmt.Sprintf("%s-pci-non-transitional,id=%s,addr=0x%x", kind, id, slot)
}

// escape makes s the value of a QEMU option, where a comma ends a value.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
