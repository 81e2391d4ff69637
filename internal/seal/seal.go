// Package seal tells whether something saved is still what this installation saved.
//
//	key, err := seal.OpenKey(path)
//	sealed := key.Sign(doc)        // the document and its mark, to be written to a file
//	doc, err := key.Open(sealed)   // refused with the code CodeAltered, if it was altered
//	sum, err := seal.Digest(part)  // of a large file that the document speaks of
//	stamp, err := seal.StampOf(part)
//	same := stamp.Holds(part)      // whether it need not be read again
//
// What is saved becomes the memory, the devices and the disk of a machine, so it
// is believed only if the key says so. The key keeps others out, who may be able
// to replace files but not to read the key. It is no defence against the user
// whose installation it is, who can read the key as well.
package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"

	"github.com/smolvm/smolvm/api"
)

// CodeAltered is the code of the error of something that is not as it was saved.
const CodeAltered = "altered"

// The mark is a first line of text before the document:
//
//	smolvm-sealed-1 HEX-OF-THE-HMAC
//
// The domain keeps the mark of a document from being one of anything else that is
// ever authenticated with the same key.
const (
	markWord = "smolvm-sealed-1 "
	markLen  = len(markWord) + 2*sha256.Size + len("\n")
	domain   = "smolvm sealed document 1\x00"
)

// Sign returns doc with the key's mark before it.
func (k Key) Sign(doc []byte) []byte {
	out := make([]byte, 0, markLen+len(doc))
	out = append(out, markWord...)
	out = hex.AppendEncode(out, k.mac(doc))
	out = append(out, '\n')
	return append(out, doc...)
}

// Open returns the document in what Sign made; it shares sealed's memory. Class
// Denied with the code CodeAltered where anything differs or the key is another.
func (k Key) Open(sealed []byte) ([]byte, error) {
	doc, err := Unverified(sealed)
	if err != nil {
		return nil, err
	}
	// Compared as text, so that a mark in capitals is not the same mark.
	want := hex.AppendEncode(nil, k.mac(doc))
	if !hmac.Equal(sealed[len(markWord):markLen-1], want) {
		return nil, altered("it was changed, or another installation of smolvm wrote it")
	}
	return doc, nil
}

// Unverified returns the document in what Sign made with whatever key. Nothing of
// it may be believed before something else vouches for it.
func Unverified(sealed []byte) ([]byte, error) {
	if len(sealed) < markLen || !bytes.HasPrefix(sealed, []byte(markWord)) || sealed[markLen-1] != '\n' {
		return nil, altered("it has no mark of smolvm")
	}
	return sealed[markLen:], nil
}

func (k Key) mac(doc []byte) []byte {
	h := hmac.New(sha256.New, k[:])
	h.Write([]byte(domain))
	h.Write(doc)
	return h.Sum(nil)
}

func altered(why string) error {
	return api.Errorf(api.Denied, "authenticate: %s", why).WithCode(CodeAltered).
		WithRecovery("Remove what it belongs to and make it again; do not use it.")
}
