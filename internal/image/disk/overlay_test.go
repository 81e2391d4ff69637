package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/api"
)

const mib = 1 << 20

func TestOverlayIsEmptyQcow2(t *testing.T) {
	for _, size := range []int64{sector, 16 * mib, clusterRun, clusterRun + sector, 10 << 30, 4 << 40, MaxMiB * mib} {
		path := filepath.Join(t.TempDir(), "o.qcow2")
		if err := Overlay(path, size); err != nil {
			t.Fatal(err)
		}
		if got, err := Size(path, Qcow2); err != nil || got != size {
			t.Errorf("Size %d, %v; want %d", got, err, size)
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if used := fi.Sys().(*syscall.Stat_t).Blocks * 512; used > 16<<10 {
			t.Errorf("an overlay of %d bytes takes %d", size, used)
		}
		markDirty(t, path)
		if got := virtualSize(t, path); got != size {
			t.Errorf("QEMU sees %d bytes, want %d", got, size)
		}
	}
}

// markDirty sets the bit that makes QEMU check all tables at the next open and
// complain about what it has to repair.
func markDirty(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{1}, 79); err != nil { // lowest bit of the incompatible features
		t.Fatal(err)
	}
}

func TestOverlayDamageIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "o.qcow2")
	if err := Overlay(path, 16*mib); err != nil {
		t.Fatal(err)
	}
	markDirty(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0, 0}, refBlockAt+6); err != nil { // the count of the L1 table
		t.Fatal(err)
	}
	f.Close()
	if _, complaint := qemu(t, add(path, "")); complaint == "" {
		t.Error("QEMU's check did not see a wrong refcount: the other tests prove nothing")
	}
}

func TestOverlayOverBase(t *testing.T) {
	dir := t.TempDir()
	base, over, low := filepath.Join(dir, "base"), filepath.Join(dir, "over"), filepath.Join(dir, "low")
	const size = 600 * mib // two entries of the L1 table
	data := bytes.Repeat([]byte{0x11}, 2*mib)
	f, err := os.Create(base)
	if err != nil {
		t.Fatal(err)
	}
	_, werr := f.WriteAt(data, 599*mib-mib)
	if err := errors.Join(werr, f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{low, over} {
		if err := Overlay(path, size); err != nil {
			t.Fatal(err)
		}
	}
	backing := fmt.Sprintf(`{"driver":"qcow2","read-only":true,"file":{"driver":"file","filename":%q},"backing":{"driver":"raw","read-only":true,"file":{"driver":"file","filename":%q}}}`, low, base)
	out, complaint := qemu(t, add(over, backing),
		nodeIO("read -P 0x11 598M 2M"), nodeIO("write -P 0x22 599M 64k"), nodeIO("write -P 0x33 5k 1k"),
		nodeIO("read -P 0x22 599M 64k"), nodeIO("read -P 0x11 598M 1M"), nodeIO("read -P 0x33 5k 1k"), nodeIO("read -P 0 0 5k"))
	if bad := strings.Count(out, "Pattern verification failed") + strings.Count(out, "error"); bad > 0 || complaint != "" {
		t.Errorf("through QEMU: %s\n%s", out, complaint)
	}
	if f, err = os.Open(base); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, first := make([]byte, len(data)), make([]byte, mib)
	_, err1 := f.ReadAt(got, 598*mib)
	_, err2 := f.ReadAt(first, 0)
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(got, data) || bytes.Contains(first, []byte{0x33}) {
		t.Errorf("the base was changed, %v", err)
	}
	markDirty(t, over)
	out, complaint = qemu(t, add(over, backing), nodeIO("read -P 0x22 599M 64k"), nodeIO("read -P 0x33 5k 1k"))
	if strings.Contains(out, "Pattern verification failed") || complaint != "" {
		t.Errorf("opened again: %s\n%s", out, complaint)
	}
}

func TestOverlayRefuses(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		path string
		size int64
		want error
	}{
		{"empty", filepath.Join(dir, "a"), 0, api.ErrInvalid},
		{"negative", filepath.Join(dir, "a"), -sector, api.ErrInvalid},
		{"half a sector", filepath.Join(dir, "a"), mib + 1, api.ErrInvalid},
		{"too large", filepath.Join(dir, "a"), MaxMiB*mib + sector, api.ErrInvalid},
		{"taken", taken, mib, api.ErrUnavailable},
		{"no directory", filepath.Join(dir, "x", "y"), mib, api.ErrUnavailable},
	} {
		if err := Overlay(c.path, c.size); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", c.name, err, c.want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if b, _ := os.ReadFile(taken); string(b) != "keep" {
		t.Errorf("an existing file was changed to %q", b)
	}
}

func TestSizeRefuses(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if err := Overlay(good, mib); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	negative := bytes.Clone(b)
	negative[24] = 0x80
	version := bytes.Clone(b)
	version[7] = 4
	for name, content := range map[string][]byte{
		"empty": nil, "short": b[:31], "zeros": make([]byte, 4096), "negative": negative, "version": version,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Size(path, Qcow2); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	if got, err := Size(filepath.Join(dir, "zeros"), Raw); err != nil || got != 4096 {
		t.Errorf("raw: %d, %v", got, err)
	}
	if _, err := Size(good, "vmdk"); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("unknown format: %v", err)
	}
	if _, err := Size(filepath.Join(dir, "none"), Raw); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("no file: %v", err)
	}
}

// add returns the QMP command that opens an overlay as the node "o".
func add(path, backing string) string {
	if backing == "" {
		backing = "null"
	}
	return fmt.Sprintf(`{"execute":"blockdev-add","arguments":{"node-name":"o","driver":"qcow2","file":{"driver":"file","filename":%q},"backing":%s}}`, path, backing)
}

// nodeIO returns the QMP command that reads or writes through the node "o".
func nodeIO(command string) string {
	return fmt.Sprintf(`{"execute":"human-monitor-command","arguments":{"command-line":"qemu-io o \"%s\""}}`, command)
}

// qemu runs QMP commands in a QEMU without a machine, and returns what it answered
// and what it complained about.
func qemu(t *testing.T, commands ...string) (answers, complaint string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none", "-qmp", "stdio")
	cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}` + strings.Join(commands, "") + `{"execute":"quit"}`)
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := cmd.Run(); err != nil {
		t.Fatalf("qemu: %v\n%s%s", err, &out, &bad)
	}
	if n := strings.Count(out.String(), `"return"`); n != len(commands)+2 {
		t.Fatalf("qemu answered %d of %d commands: %s", n, len(commands)+2, &out)
	}
	return out.String(), bad.String()
}

func virtualSize(t *testing.T, path string) int64 {
	t.Helper()
	out, complaint := qemu(t, add(path, ""), `{"execute":"query-named-block-nodes","arguments":{"flat":true}}`)
	if complaint != "" {
		t.Errorf("QEMU's check: %s", complaint)
	}
	for line := range strings.Lines(out) {
		var answer struct {
			Return []struct {
				Node  string `json:"node-name"`
				Image struct {
					Size int64 `json:"virtual-size"`
				} `json:"image"`
			} `json:"return"`
		}
		if json.Unmarshal([]byte(line), &answer) != nil {
			continue
		}
		for _, n := range answer.Return {
			if n.Node == "o" {
				return n.Image.Size
			}
		}
	}
	t.Fatalf("no node: %s", out)
	return 0
}

func BenchmarkOverlay(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		path := filepath.Join(dir, "o")
		if err := Overlay(path, 10<<30); err != nil {
			b.Fatal(err)
		}
		os.Remove(path)
	}
}
