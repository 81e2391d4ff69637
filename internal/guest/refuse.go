package guest

import (
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest/wire"
)

// Refuse ends a client's stream with an error, as the guest itself would.
func Refuse(client Stream, e *api.Error) {
	f := Failure{Class: string(e.Class), Message: e.Message, Code: e.Code, Recovery: e.Recovery}
	if client.Send(KindError, wire.Marshal(&f)) == nil {
		client.CloseSend()
	}
}
