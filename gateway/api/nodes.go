package api

import (
	"context"
	"net/http"
	"regexp"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/fluxgate/fluxgate/router"
)

// Node is one machine that runs apps, as this gateway sees it.
type Node struct {
	Name      string            `json:"name"`
	URL       string            `json:"url" doc:"Of its Podman API"`
	Address   string            `json:"address,omitempty" doc:"Where gateways reach its containers' ports"`
	Tunnel    bool              `json:"tunnel" doc:"Requests travel through SSH"`
	Labels    map[string]string `json:"labels,omitempty"`
	Health    string            `json:"health" enum:"ok,full,silent,lost,unreached" doc:"full: its disk has no room, and what can goes elsewhere; silent: its Podman does not answer, what runs goes on; lost: the machine cannot be reached; unreached: this gateway has not connected yet"`
	Problem   string            `json:"problem,omitempty" doc:"Why it is not ok"`
	Cordoned  bool              `json:"cordoned" doc:"It takes no new instances"`
	CPUs      int               `json:"cpus"`
	Memory    int64             `json:"memory_bytes"`
	Reserved  int64             `json:"reserved_bytes" doc:"What running instances count for"`
	Instances map[string]int    `json:"instances" doc:"By state"`
	LatencyMS float64           `json:"latency_ms,omitempty" doc:"Of one question to its Podman"`
	Podman    string            `json:"podman,omitempty"`
	Runtime   string            `json:"runtime,omitempty"`
	HostKey   string            `json:"host_key,omitempty" doc:"Pinned SSH host key"`
	Diagnosis []string          `json:"diagnosis,omitempty" doc:"What does not work there, and what that costs"`
	Checked   time.Time         `json:"checked,omitzero"`
}

// AddNode asks for a node to be added.
type AddNode struct {
	Name    string            `json:"name,omitempty" maxLength:"40" doc:"Made from the URL if empty"`
	URL     string            `json:"url" maxLength:"500" doc:"ssh://user@host[:port][/socket], unix:///socket or tcp://host:port"`
	Address string            `json:"address,omitempty" maxLength:"100" doc:"IP address at which gateways reach its containers' ports; of ssh and tcp, the URL's host if empty"`
	Tunnel  bool              `json:"tunnel,omitempty" doc:"For ssh: requests travel through the SSH connection, and no port of the node is opened"`
	HostKey string            `json:"host_key,omitempty" maxLength:"2000" doc:"For ssh: the host key to pin, as GET /v1/nodes/host-key shows it"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// HostKey is what a machine shows of itself to SSH clients.
type HostKey struct {
	Key         string `json:"key" doc:"ssh-ed25519 AAAA…"`
	Fingerprint string `json:"fingerprint" doc:"SHA256:…, as ssh-keygen -lf shows it there"`
}

// Nodes are the machines that run apps. Add connects to one, checks it by
// really running a container there, and stores it for all gateways. Remove
// refuses one that still has instances unless force is set.
type Nodes interface {
	List(ctx context.Context) ([]Node, error)
	HostKey(ctx context.Context, url string) (HostKey, error)
	Add(ctx context.Context, n AddNode) (Node, error)
	Cordon(ctx context.Context, name string, on bool) (Node, error)
	Remove(ctx context.Context, name string, force bool) error
}

var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,38}[a-z0-9])?$`)

// CheckNode is everything that is wrong with what is asked for.
func CheckNode(n AddNode) []router.Violation {
	var bad []router.Violation
	if n.Name != "" && !nodeName.MatchString(n.Name) {
		bad = append(bad, router.Violation{Field: "name", Value: n.Name, Limit: "1 to 40 of a-z, 0-9, . and -", Remedy: "choose a name such as rack1-7"})
	}
	for k, v := range n.Labels {
		if v := router.CheckLabel("label", k, v); v != nil {
			bad = append(bad, *v)
		}
	}
	return append(bad, router.CheckNodeURL(n.URL, n.Address, n.Tunnel)...)
}

func (s *Server) registerNodes() {
	if s.b.Nodes == nil {
		return
	}
	register(s, huma.Operation{
		OperationID: "list-nodes", Method: http.MethodGet, Path: "/v1/nodes", Summary: "The machines that run apps, by name", Tags: []string{"nodes"},
	}, func(ctx context.Context, _ *none) ([]Node, error) { return s.b.Nodes.List(ctx) })
	type key struct {
		URL string `query:"url" required:"true" maxLength:"500"`
	}
	register(s, huma.Operation{
		OperationID: "node-host-key", Method: http.MethodGet, Path: "/v1/nodes/host-key", Summary: "The SSH host key that a machine shows, to be compared and pinned", Tags: []string{"nodes"},
	}, func(ctx context.Context, in *key) (HostKey, error) {
		if bad := CheckNode(AddNode{URL: in.URL}); len(bad) > 0 {
			return HostKey{}, router.Invalid("the node", bad)
		}
		return s.b.Nodes.HostKey(ctx, in.URL)
	})
	type add struct{ Body AddNode }
	register(s, huma.Operation{
		OperationID: "add-node", Method: http.MethodPost, Path: "/v1/nodes", Summary: "Add a machine, after running a container there", Tags: []string{"nodes"}, DefaultStatus: http.StatusCreated,
	}, func(ctx context.Context, in *add) (Node, error) {
		if bad := CheckNode(in.Body); len(bad) > 0 {
			return Node{}, router.Invalid("the node", bad)
		}
		return s.b.Nodes.Add(ctx, in.Body)
	})
	type cordon struct {
		Name string `path:"name" maxLength:"100"`
		Body struct {
			Cordoned bool `json:"cordoned" doc:"true: take no new instances, and move what is there to other nodes"`
		}
	}
	register(s, huma.Operation{
		OperationID: "cordon-node", Method: http.MethodPatch, Path: "/v1/nodes/{name}", Summary: "Drain a machine, or let it take instances again", Tags: []string{"nodes"},
	}, func(ctx context.Context, in *cordon) (Node, error) {
		return s.b.Nodes.Cordon(ctx, in.Name, in.Body.Cordoned)
	})
	type remove struct {
		Name  string `path:"name" maxLength:"100"`
		Force bool   `query:"force" doc:"Even if it has instances: their records go, and what runs there is left to it"`
	}
	registerEmpty(s, huma.Operation{
		OperationID: "remove-node", Method: http.MethodDelete, Path: "/v1/nodes/{name}", Summary: "Forget a machine", Tags: []string{"nodes"},
	}, func(ctx context.Context, in *remove) error { return s.b.Nodes.Remove(ctx, in.Name, in.Force) })
}
