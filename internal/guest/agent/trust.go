package agent

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"golang.org/x/sys/unix"
)

// The agent's own files of authorities.
const (
	trustDir  = "/etc/smolvm"
	trustCert = trustDir + "/ca.pem"
	trustJava = trustDir + "/java.p12"
)

// anchors are where administrators put authorities, so that the next bundle that the
// distribution makes has them. The first is made where it is not there: an image
// may get ca-certificates later.
var anchors = []string{
	"/usr/local/share/ca-certificates/smolvm.crt",          // Debian, Ubuntu, Alpine
	"/etc/pki/ca-trust/source/anchors/smolvm.pem",          // Fedora
	"/etc/pki/trust/anchors/smolvm.pem",                    // openSUSE
	"/etc/ca-certificates/trust-source/anchors/smolvm.pem", // Arch
}

// bundles are what programs read all authorities from.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Alpine, Arch
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, mostly a link to the last
	"/var/lib/ca-certificates/ca-bundle.pem",            // openSUSE
	"/etc/ssl/cert.pem",                                 // Alpine, mostly a link to the first
}

// hashed are directories in which OpenSSL looks for an authority by its hash.
var hashed = []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}

// javas are where Java is in images that have it.
var javas = []string{"/usr/bin/java", "/usr/local/bin/java", "/usr/lib/jvm", "/opt/java", "/opt/jdk"}

const (
	maxBundle  = 8 << 20 // of all authorities; Debian's have 220 KB
	blockBegin = "# smolvm's authority of this sandbox begins\n"
	blockEnd   = "# smolvm's authority ends\n"
)

// trust serves OpTrust.
func (a *Agent) trust(s stream, req []byte) error {
	var r guest.Trust
	if err := unmarshal(req, &r); err != nil {
		return err
	}
	if len(r.Cert) == 0 || len(r.Cert) > maxRewrite || len(r.Hash) != 8 || strings.Trim(r.Hash, "0123456789abcdef") != "" {
		return api.Errorf(api.Invalid, "trust an authority: not a certificate with its hash")
	}
	a.trusting.Lock()
	defer a.trusting.Unlock()
	t := &trusting{a: a, r: &r}
	if err := t.run(); err != nil {
		return err
	}
	return s.reply(&t.reply)
}

// trusting is one Trust under way.
type trusting struct {
	a     *Agent
	r     *guest.Trust
	reply guest.Trusted
}

func (t *trusting) run() error {
	t.reply.Bundle = t.bundle()
	t.reply.NeedRoots = t.reply.Bundle == "" && len(t.r.Roots) == 0
	java := t.hasJava()
	t.reply.NeedJava = java && len(t.r.Java) == 0
	if t.reply.NeedRoots || t.reply.NeedJava {
		return nil
	}
	text := "# hash " + t.r.Hash + "\n" + string(t.r.Cert)
	t.forget(text)
	if err := t.put(trustCert, []byte(text)); err != nil {
		return failed("write", trustCert, err)
	}
	t.reply.Cert = trustCert
	t.anchor(text)
	if err := t.extend(); err != nil {
		return err
	}
	t.link()
	if java {
		if err := t.put(trustJava, t.r.Java); err != nil {
			return failed("write", trustJava, err)
		}
		t.reply.Java = trustJava
	}
	return nil
}

func (t *trusting) try(act, path string, err error) {
	if err != nil {
		text := act + " " + path + ": " + err.Error()
		t.reply.Failed = append(t.reply.Failed, text[:min(len(text), maxFailed)])
	}
}

func (t *trusting) there(path string) bool {
	var st unix.Stat_t
	return unix.Stat(t.a.root+path, &st) == nil
}

// bundle returns the first bundle that is there.
func (t *trusting) bundle() string {
	for _, b := range bundles {
		if t.there(b) {
			return b
		}
	}
	return ""
}

func (t *trusting) hasJava() bool {
	for _, j := range javas {
		if t.there(j) {
			return true
		}
	}
	return false
}

// forget removes the hash links to an authority before this one.
func (t *trusting) forget(text string) {
	old, err := readSmall(t.a.root + trustCert)
	rest, ok := strings.CutPrefix(old, "# hash ")
	if err != nil || !ok || old == text || len(rest) < 8 {
		return
	}
	for _, dir := range hashed {
		path := t.a.root + dir + "/" + rest[:8] + ".0"
		if to, err := os.Readlink(path); err == nil && to == trustCert {
			t.try("remove", path, os.Remove(path))
		}
	}
}

// put writes a file, if it is not there already, with its directory.
func (t *trusting) put(path string, text []byte) error {
	path = t.a.root + path
	if old, err := readUpTo(path, maxBundle); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	w := writing{path: path, req: &guest.Write{Path: path}, data: bytes.NewReader(text)}
	return w.replaceWhatIs()
}

// replaceWhatIs replaces a file whole, through a link, with its owner and mode.
func (w *writing) replaceWhatIs() error {
	if p, err := filepath.EvalSymlinks(w.path); err == nil {
		w.path = p
	}
	var st unix.Stat_t
	if unix.Stat(w.path, &st) != nil {
		return w.replace(nil)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.EINVAL
	}
	return w.replace(&st)
}

// anchor puts the certificate where bundles are made from.
func (t *trusting) anchor(text string) {
	for i, path := range anchors {
		if i == 0 || t.there(filepath.Dir(path)) {
			t.try("write", path, t.put(path, []byte(text)))
		}
	}
}

// extend puts the certificate at the end of all bundles.
func (t *trusting) extend() error {
	block := []byte(blockBegin + string(t.r.Cert) + blockEnd)
	if t.reply.Bundle == "" {
		t.reply.Bundle = bundles[0]
		if err := t.put(bundles[0], append(withLine(t.r.Roots), block...)); err != nil {
			return failed("write", bundles[0], err)
		}
		return nil
	}
	for _, b := range bundles {
		if !t.there(b) {
			continue
		}
		err := t.extendOne(b, block)
		if err != nil && b == t.reply.Bundle {
			return failed("write", b, err)
		}
		t.try("write", b, err)
	}
	return nil
}

// extendOne gives one bundle its block. A file that has it at its end, as a link to
// a bundle that was done has, is left.
func (t *trusting) extendOne(path string, block []byte) error {
	if endsWith(t.a.root+path, block) {
		return nil
	}
	old, err := readUpTo(t.a.root+path, maxBundle)
	if err != nil {
		return err
	}
	return t.put(path, append(withLine(withoutBlock(old)), block...))
}

// withoutBlock takes out the block of an earlier authority. A block without an end
// is not ours any more.
func withoutBlock(text []byte) []byte {
	before, rest, ok := bytes.Cut(text, []byte(blockBegin))
	if !ok {
		return text
	}
	_, after, ok := bytes.Cut(rest, []byte(blockEnd))
	if !ok {
		return text
	}
	return append(bytes.Clone(before), after...)
}

func withLine(text []byte) []byte {
	text = bytes.Clone(text)
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	return text
}

// endsWith reports whether a file ends with a text.
func endsWith(path string, text []byte) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|carefully, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() < int64(len(text)) {
		return false
	}
	end := make([]byte, len(text))
	_, err = f.ReadAt(end, st.Size()-int64(len(text)))
	return err == nil && bytes.Equal(end, text)
}

// readUpTo reads a file that is not larger than most.
func readUpTo(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|carefully, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = unix.EFBIG
	}
	return b, err
}

// link gives OpenSSL's directories a link of the subject's hash.
func (t *trusting) link() {
	for _, dir := range hashed {
		if !t.there(dir) {
			continue
		}
		path := t.a.root + dir + "/" + t.r.Hash + ".0"
		if to, err := os.Readlink(path); err == nil && to == trustCert {
			continue
		}
		os.Remove(path)
		t.try("link", path, os.Symlink(trustCert, path))
	}
}
