package testenv

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/smolvm/smolvm/api"
)

// clientPackages is what the image of clients has beyond the default one, which
// has curl, git, pip, Node and apt. They are unpacked, not installed: that boots no
// guest, and Java needs no libraries that only windows and printers use.
const clientPackages = "python3-requests python3-urllib3 python3-chardet python3-charset-normalizer " +
	"python3-idna python3-certifi python3-six python3-websockets openjdk-17-jre-headless"

// npmPackage is npm as its makers pack it; Debian's brings hundreds of packages.
const npmPackage = "npm@10.9.2"

// clientSteps makes, in a directory with the packages' files, the folder root with
// what they hold, and takes out what no test needs.
const clientSteps = `set -eu
mkdir -p root/usr/local/bin root/usr/local/lib/node_modules/npm
for deb in *.deb; do dpkg-deb -x "$deb" root; done
cd root
tar -xzf ../npm-*.tgz --strip-components=1 -C usr/local/lib/node_modules/npm
rm -rf usr/share/doc usr/share/man usr/share/lintian usr/share/gdb usr/local/lib/node_modules/npm/man
rm -f usr/lib/jvm/java-17-*/lib/server/classes_nocoops.jsa
ln -s ../lib/node_modules/npm/bin/npm-cli.js usr/local/bin/npm
for java in usr/lib/jvm/java-17-openjdk-*/bin/java; do ln -s "/$java" usr/local/bin/java; done
`

// ClientsImage returns the name of an image with programs that use the network:
// curl, git, pip, npm, Node, apt, Java, and Python's requests and websockets. It is
// made once for each user and recipe.
func ClientsImage(t testing.TB) string {
	t.Helper()
	name, err := clientsImage()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

var clientsImage = sync.OnceValues(func() (string, error) {
	recipe := sha256.Sum256([]byte(clientPackages + npmPackage + clientSteps))
	name := fmt.Sprintf("test-clients:%x", recipe[:6])
	if _, err := prepare(); err != nil {
		return "", err
	}
	binary, err := Build()
	if err != nil {
		return "", err
	}
	if exec.Command(binary, "image", "inspect", name).Run() == nil {
		return name, nil
	}
	dir, err := os.MkdirTemp("", "smolvm-clients-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := fetchClients(dir); err != nil {
		return "", err
	}
	dockerfile := "FROM " + api.DefaultImage + "\nCOPY root/ /\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		return "", err
	}
	return name, runIn(dir, binary, "image", "build", "-t", name, dir)
})

// fetchClients puts what the image has beyond the default one into dir/root.
func fetchClients(dir string) error {
	for program, pkg := range map[string]string{"npm": "npm", "dpkg-deb": "dpkg"} {
		if err := install(program, pkg); err != nil {
			return err
		}
	}
	download := append([]string{"apt-get", "-q", "download"}, strings.Fields(clientPackages)...)
	if err := runIn(dir, download...); err != nil {
		// The host's package lists may be missing, or older than the archive.
		if err := asRoot("apt-get", "-q", "update"); err != nil {
			return err
		}
		if err := runIn(dir, download...); err != nil {
			return err
		}
	}
	if err := runIn(dir, "npm", "pack", npmPackage); err != nil {
		return err
	}
	return runIn(dir, "sh", "-c", clientSteps)
}

// install installs the Debian package of a program that is not here.
func install(program, pkg string) error {
	if _, err := exec.LookPath(program); err == nil {
		return nil
	}
	if err := asRoot("apt-get", "-q", "update"); err != nil {
		return err
	}
	return asRoot("apt-get", "-q", "install", "-y", "--no-install-recommends", pkg)
}

func asRoot(args ...string) error {
	if os.Getuid() != 0 {
		args = append([]string{"sudo", "-n"}, args...)
	}
	return runIn("/", args...)
}

func runIn(dir string, args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
