package cli

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/api"
)

// mibFlag is a size in MiB. It reads a plain number of MiB and forms such as
// 512M, 2G, 1.5GiB.
type mibFlag int

func (f *mibFlag) Type() string { return "SIZE" }

func (f *mibFlag) String() string {
	if *f == 0 {
		return ""
	}
	return mib(int(*f))
}

func (f *mibFlag) Set(s string) error {
	n, err := parseMiB(s)
	*f = mibFlag(n)
	return err
}

// mibUnits are sizes in MiB.
var mibUnits = map[string]float64{"": 1, "m": 1, "mb": 1, "mib": 1, "g": 1 << 10, "gb": 1 << 10, "gib": 1 << 10, "t": 1 << 20, "tb": 1 << 20, "tib": 1 << 20}

func parseMiB(s string) (int, error) {
	low := strings.ToLower(strings.TrimSpace(s))
	digits := strings.TrimRight(low, "bgimt")
	unit, known := mibUnits[low[len(digits):]]
	n, err := strconv.ParseFloat(digits, 64)
	// Written so that a NaN is refused too.
	if err != nil || !known || strings.ContainsAny(digits, "einpx_") || !(n > 0 && n*unit <= math.MaxInt32) {
		return 0, fmt.Errorf("%q is not a size: use MiB such as 512, or 512M or 2G", s)
	}
	if v := n * unit; v == math.Trunc(v) {
		return int(v), nil
	}
	return 0, fmt.Errorf("%q is not a whole number of MiB", s)
}

// kibFlag is a rate in KiB a second. It reads a plain number of KiB and forms such as
// 512K, 10M, 1.5MiB.
type kibFlag int

func (f *kibFlag) Type() string { return "RATE" }

func (f *kibFlag) String() string {
	switch n := int(*f); {
	case n == 0:
		return ""
	case n%1024 == 0:
		return mib(n / 1024)
	default:
		return strconv.Itoa(n) + "K"
	}
}

func (f *kibFlag) Set(s string) error {
	low := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(s), "b"), "i")
	if n, err := strconv.Atoi(strings.TrimSuffix(low, "k")); err == nil && n > 0 {
		*f = kibFlag(n)
		return nil
	}
	n, err := parseMiB(s)
	if err != nil || n > math.MaxInt32>>10 || strings.HasSuffix(low, "k") {
		return fmt.Errorf("%q is not a rate: use KiB a second such as 512, or 512K or 10M", s)
	}
	*f = kibFlag(n << 10)
	return nil
}

// durationFlag is a length of time. It reads Go's form, such as 90s or 1h30m,
// and a plain number of seconds.
type durationFlag time.Duration

func (f *durationFlag) Type() string { return "TIME" }

func (f *durationFlag) String() string {
	if *f == 0 {
		return ""
	}
	return time.Duration(*f).String()
}

func (f *durationFlag) Set(s string) error {
	d, err := time.ParseDuration(s)
	if n, e := strconv.ParseFloat(s, 64); e == nil {
		// Beyond this a duration overflows; MaxTTL is far below.
		if !(math.Abs(n) <= api.MaxTTL.Seconds()) {
			return fmt.Errorf("%q is too long", s)
		}
		d, err = time.Duration(n*float64(time.Second)), nil
	}
	if err != nil {
		return fmt.Errorf("%q is not a time: use seconds such as 30, or 90s, 5m or 1h30m", s)
	}
	if d < 0 {
		return fmt.Errorf("%q is negative", s)
	}
	*f = durationFlag(d)
	return nil
}

// seconds is the flag's value as the API has it.
func (f durationFlag) seconds() float64 { return time.Duration(f).Seconds() }

// keyValues reads KEY=VALUE words.
func keyValues(what string, words []string) (map[string]string, error) {
	m := make(map[string]string, len(words))
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return nil, api.Errorf(api.Invalid, "%s %.80q has no value", what, w).WithRecovery("Use KEY=VALUE.")
		}
		m[k] = v
	}
	return m, nil
}

// environment reads --env-file and --env: files first, in order, so that a
// single variable can be changed on the command line. A word without "=" takes
// the value from smolvm's own environment.
func environment(files, words []string) (map[string]string, error) {
	env := make(map[string]string)
	for _, path := range files {
		if err := readEnvFile(path, env); err != nil {
			return nil, err
		}
	}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			if v, ok = os.LookupEnv(k); !ok {
				return nil, api.Errorf(api.Invalid, "environment variable %.80q has no value and is not set here", k).
					WithRecovery("Use KEY=VALUE.")
			}
		}
		if err := api.CheckEnvName(k); err != nil {
			return nil, err
		}
		env[k] = v
	}
	if len(env) == 0 {
		return nil, nil
	}
	return env, nil
}

// readEnvFile adds the KEY=VALUE lines of a file. Empty lines and lines that
// begin with # are left out; values are taken as they are, without quotes.
func readEnvFile(path string, env map[string]string) error {
	f, err := os.Open(path)
	if err != nil {
		return api.Errorf(api.Invalid, "read env file: %w", err)
	}
	defer f.Close()
	in := bufio.NewScanner(io.LimitReader(f, api.MaxEnvBytes+1))
	in.Buffer(nil, api.MaxEnvBytes)
	total := 0
	for n := 1; in.Scan(); n++ {
		total += len(in.Text()) + 1
		line := strings.TrimSuffix(in.Text(), "\r")
		if t := strings.TrimSpace(line); t == "" || strings.HasPrefix(t, "#") {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		k = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(k), "export "))
		if !ok || api.CheckEnvName(k) != nil {
			return api.Errorf(api.Invalid, "read env file %s: line %d is not KEY=VALUE", path, n)
		}
		env[k] = v
	}
	if in.Err() != nil || total > api.MaxEnvBytes {
		return api.Errorf(api.Exhausted, "read env file %s: more than %d bytes, or unreadable", path, api.MaxEnvBytes)
	}
	return nil
}
