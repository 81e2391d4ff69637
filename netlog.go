package smolvm

import (
	"context"
	"io"

	"github.com/smolvm/smolvm/api"
)

// NetworkEntry is one line of the record of a sandbox's network: a DNS question, a
// flow, an HTTP request, and what was decided about it.
type NetworkEntry = api.NetworkEntry

// NetworkReport says whether a record is as it was written.
type NetworkReport = api.NetworkReport

// NetworkLogOptions says what of the record to read. The zero value is all that is
// kept.
type NetworkLogOptions = api.NetworkLogOptions

// NetworkLog calls f for each entry of the network's record, oldest first, in every
// state of the sandbox. It returns f's first error. The record is kept bounded, so
// old entries may be gone; NetworkEntry.Seq tells.
func (s *Sandbox) NetworkLog(ctx context.Context, o NetworkLogOptions, f func(NetworkEntry) error) error {
	return s.h.NetworkLog(ctx, o, f)
}

// VerifyNetworkLog holds the network's record against the hashes that chain it: an
// entry that was changed, moved or taken out, and a cut end, is named in the report.
// Class NotFound where there is no record.
func (s *Sandbox) VerifyNetworkLog(ctx context.Context) (NetworkReport, error) {
	return s.h.VerifyNetworkLog(ctx)
}

// CapturePackets copies the packets of the sandbox's network card to w, as pcapng,
// until ctx ends, which is no error, or the sandbox's network does. There is one
// capture at a time. Where w is slow, frames are left out, and the last block of the
// capture says how many. Class Conflict where the sandbox has no network.
func (s *Sandbox) CapturePackets(ctx context.Context, w io.Writer) error {
	return s.h.CapturePackets(ctx, w)
}
