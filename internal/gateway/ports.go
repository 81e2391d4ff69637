package gateway

import (
	"context"
	"net/http"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

const tagNetwork = "Network"

// PortList lists ports of the host that lead into a sandbox.
type PortList struct {
	Ports []api.Port `json:"ports" nullable:"false"`
}

func (s *Server) portRoutes() {
	route(s, op{
		ID: "list-ports", Method: http.MethodGet, Path: "/v1/sandboxes/{id}/ports", Scope: apikey.Read, Tag: tagNetwork,
		Summary: "List the ports of the server's host that lead into a sandbox",
	}, s.listPorts)
	route(s, op{
		ID: "expose-port", Method: http.MethodPost, Path: "/v1/sandboxes/{id}/ports", Scope: apikey.Manage, Tag: tagNetwork,
		Summary: "Lead a port of the server's host into a sandbox", Status: http.StatusCreated,
	}, s.exposePort)
	route(s, op{
		ID: "unexpose-ports", Method: http.MethodDelete, Path: "/v1/sandboxes/{id}/ports", Scope: apikey.Manage, Tag: tagNetwork,
		Summary: "End ports with their connections, and list those that ended",
		Details: "All ports that have the given fields are meant; one field at least is given.",
	}, s.unexposePorts)
}

func (s *Server) listPorts(ctx context.Context, in *Ref) (*reply[PortList], error) {
	sb, err := s.sandbox(ctx, *in)
	if err != nil {
		return nil, err
	}
	ports, err := sb.Ports(ctx)
	return &reply[PortList]{PortList{filled(ports)}}, err
}

// filled is a list that is not null in JSON.
func filled[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

type portInput struct {
	Ref
	Body api.Port
}

func (s *Server) exposePort(ctx context.Context, in *portInput) (*reply[api.Port], error) {
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	p, err := sb.Expose(ctx, in.Body)
	return &reply[api.Port]{p}, err
}

type unexposeInput struct {
	Ref
	Proto     string `query:"proto" enum:"tcp,udp"`
	HostIP    string `query:"host_ip" maxLength:"64"`
	HostPort  int    `query:"host_port" minimum:"0" maximum:"65535"`
	GuestPort int    `query:"guest_port" minimum:"0" maximum:"65535"`
}

func (s *Server) unexposePorts(ctx context.Context, in *unexposeInput) (*reply[PortList], error) {
	p := api.Port{Proto: in.Proto, HostIP: in.HostIP, HostPort: in.HostPort, GuestPort: in.GuestPort}
	if p == (api.Port{}) {
		return nil, api.Errorf(api.Invalid, "end ports: it is not said which").WithRecovery("Give guest_port or host_port.")
	}
	sb, err := s.sandbox(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	ports, err := sb.Unexpose(ctx, p)
	return &reply[PortList]{PortList{filled(ports)}}, err
}
