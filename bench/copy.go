package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/smolvm/smolvm"
)

// copyMiB is the size of the file that is copied each way.
const copyMiB = 256

// copies measures a file each way, and what it costs agent and supervisor in memory.
func copies(ctx context.Context, b *suite) error {
	dir, err := os.MkdirTemp("", "smolvm-copy-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	src := filepath.Join(dir, "src")
	if err := randomFile(src, copyMiB<<20); err != nil {
		return err
	}
	sb, err := b.client.Create(ctx, smolvm.Spec{MemoryMiB: memoryMiB, Ephemeral: true})
	if err != nil {
		return err
	}
	defer sb.Remove(context.WithoutCancel(ctx))
	if _, err := sb.CopyIn(ctx, "/etc/hostname", "/tmp/warm", smolvm.CopyOptions{}); err != nil {
		return err
	}
	before, err := memory(ctx, sb)
	if err != nil {
		return err
	}
	for _, way := range []struct {
		name string
		copy func() (smolvm.Copied, error)
	}{
		{"in", func() (smolvm.Copied, error) { return sb.CopyIn(ctx, src, "/root/dst", smolvm.CopyOptions{}) }},
		{"out", func() (smolvm.Copied, error) {
			return sb.CopyOut(ctx, "/root/dst", filepath.Join(dir, "back"), smolvm.CopyOptions{})
		}},
	} {
		t := time.Now()
		n, err := way.copy()
		if err != nil {
			return err
		}
		after, err := memory(ctx, sb)
		if err != nil {
			return err
		}
		fmt.Printf("  %d MiB %-3s  %6.1f MB/s   agent %s, supervisor %s\n", copyMiB, way.name,
			float64(n.Bytes)/1e6/time.Since(t).Seconds(), grown(before.agent, after.agent), grown(before.supervisor, after.supervisor))
	}
	return nil
}

// peaks is the largest memory that agent and supervisor ever had, in KiB.
type peaks struct{ agent, supervisor int64 }

func memory(ctx context.Context, sb *smolvm.Sandbox) (p peaks, err error) {
	info, err := sb.Info(ctx)
	if err != nil {
		return p, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", info.SupervisorPID))
	if err != nil {
		return p, err
	}
	p.supervisor = peak(string(b))
	b, err = sb.ReadFile(ctx, "/proc/1/status", 0)
	p.agent = peak(string(b))
	return p, err
}

func peak(status string) (kib int64) {
	_, rest, _ := strings.Cut(status, "VmHWM:")
	fmt.Sscan(rest, &kib)
	return kib
}

func grown(before, after int64) string {
	return fmt.Sprintf("peak %.1f MiB (+%.1f)", float64(after)/1024, float64(after-before)/1024)
}

func randomFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(f, rand.Reader, size)
	return err
}
