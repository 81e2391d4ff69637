package remote

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/smolvm/smolvm/api"
)

// Expose leads a port of the gateway's host into the sandbox.
func (h *Handle) Expose(ctx context.Context, p api.Port) (out api.Port, err error) {
	err = h.post(ctx, "ports", p, &out)
	return out, err
}

// Unexpose ends the ports that p means, with their connections, and returns them.
func (h *Handle) Unexpose(ctx context.Context, p api.Port) ([]api.Port, error) {
	var out struct {
		Ports []api.Port `json:"ports"`
	}
	q := query(h.path("ports"), "proto", p.Proto, "host_ip", p.HostIP, "host_port", number(p.HostPort), "guest_port", number(p.GuestPort))
	err := h.c.call(ctx, http.MethodDelete, q, nil, &out)
	return out.Ports, err
}

// Network returns what the sandbox may reach.
func (h *Handle) Network(ctx context.Context) (out api.Network, err error) {
	err = h.get(ctx, "network", &out)
	return out, err
}

// SetNetwork changes what the sandbox may reach, and returns all of it.
func (h *Handle) SetNetwork(ctx context.Context, c api.NetworkChange) (out api.Network, err error) {
	err = h.c.call(ctx, http.MethodPut, h.path("network"), c, &out)
	return out, err
}

// NetworkLog calls f for each entry of the network's record. With Follow it goes on
// until the context ends or the sandbox stops.
func (h *Handle) NetworkLog(ctx context.Context, o api.NetworkLogOptions, f func(api.NetworkEntry) error) error {
	since := ""
	if !o.Since.IsZero() {
		since = o.Since.Format(time.RFC3339Nano)
	}
	q := query(h.path("network", "log"), "since", since, "host", o.Host, "denied", flag(o.Denied), "follow", flag(o.Follow))
	err := h.c.peer.Lines(ctx, h.c.request(http.MethodGet, q), func(line []byte) error {
		var e struct {
			api.NetworkEntry
			Error *api.Error `json:"error"`
		}
		switch err := json.Unmarshal(line, &e); {
		case len(line) == 0:
			return nil
		case err != nil:
			return api.Errorf(api.Internal, "read network record from %s: %w", h.c.peer.Name, err)
		case e.Error != nil:
			return e.Error
		}
		return f(e.NetworkEntry)
	})
	if o.Follow && ctx.Err() != nil {
		return nil // as it was asked for
	}
	return err
}

// VerifyNetworkLog holds the network's record against its chain.
func (h *Handle) VerifyNetworkLog(ctx context.Context) (out api.NetworkReport, err error) {
	err = h.c.call(ctx, http.MethodGet, h.path("network", "verify"), nil, &out)
	return out, err
}

// CapturePackets copies the packets of the network card as pcapng to w, until ctx
// ends, which is no error, or the network does.
func (h *Handle) CapturePackets(ctx context.Context, w io.Writer) error {
	return h.c.peer.Capture(ctx, h.c.request(http.MethodGet, h.path("network", "pcap")), w)
}

// PendingFlows lists the flows that wait for a person's answer.
func (h *Handle) PendingFlows(ctx context.Context) ([]api.PendingFlow, error) {
	var out struct {
		Flows []api.PendingFlow `json:"flows"`
	}
	err := h.c.call(ctx, http.MethodGet, h.path("network", "pending"), nil, &out)
	return out.Flows, err
}

// AnswerFlow answers one of them.
func (h *Handle) AnswerFlow(ctx context.Context, a api.FlowAnswer) (out api.FlowOutcome, err error) {
	err = h.c.call(ctx, http.MethodPost, h.path("network", "answer"), a, &out)
	return out, err
}

// WatchFlows calls f with each event of flows that wait, until ctx or the network
// ends.
func (h *Handle) WatchFlows(ctx context.Context, f func(api.FlowEvent) error) error {
	r := h.c.request(http.MethodGet, h.path("network", "events"))
	return h.c.peer.Events(ctx, r, func(_ string, data []byte) error {
		var e struct {
			api.FlowEvent
			Error *api.Error `json:"error"`
		}
		if err := json.Unmarshal(data, &e); err != nil {
			return api.Errorf(api.Internal, "read event %.200q: %w", data, err)
		}
		if e.Error != nil {
			return e.Error
		}
		return f(e.FlowEvent)
	})
}

// Secrets describes the sandbox's secrets.
func (h *Handle) Secrets(ctx context.Context) ([]api.SecretStatus, error) {
	var out struct {
		Secrets []api.SecretStatus `json:"secrets"`
	}
	err := h.get(ctx, "secrets", &out)
	return out.Secrets, err
}

// SetSecret gives the running sandbox a secret's value.
func (h *Handle) SetSecret(ctx context.Context, s api.Secret) (out api.SecretStatus, err error) {
	if err := api.CheckSecretName(s.Name); err != nil {
		return out, err
	}
	err = h.c.call(ctx, http.MethodPut, h.path("secrets", s.Name), struct {
		Hosts []string `json:"hosts,omitempty"`
		Value string   `json:"value"`
	}{s.Hosts, s.Value}, &out)
	return out, err
}

// RemoveSecret has the sandbox forget a secret.
func (h *Handle) RemoveSecret(ctx context.Context, name string) error {
	if api.CheckSecretName(name) != nil { // before it becomes part of a path
		return api.Errorf(api.NotFound, "remove secret %.80q: the sandbox has none such", name)
	}
	return h.c.call(ctx, http.MethodDelete, h.path("secrets", name), nil, nil)
}
