package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// fakeContainer is one container of a fake node; the node's lock guards it.
type fakeContainer struct {
	id, name string
	labels   map[string]string
	nonce    string // of the product's own probe, which answers with it
	port     int    // that its program listens on, inside
	status   string
	exit     int
	created  time.Time

	server    *http.Server
	published int // where it answers

	still  sync.RWMutex // held for writing while it is frozen
	frozen bool
}

// start has its program listen.
func (c *fakeContainer) start(ip string) error {
	ln, err := net.Listen("tcp", ip+":0")
	if err != nil {
		return err
	}
	if a, ok := ln.Addr().(*net.TCPAddr); ok {
		c.published = a.Port
	}
	c.server = &http.Server{Handler: c, ReadHeaderTimeout: time.Minute, ErrorLog: nil}
	go func(s *http.Server) { _ = s.Serve(ln) }(c.server) // ends with stop
	c.status = "running"
	return nil
}

func (c *fakeContainer) stop() {
	c.freeze(false)
	_ = c.server.Close()
}

// freeze makes its program stand still: connections are taken, by the kernel,
// and nothing answers.
func (c *fakeContainer) freeze(on bool) {
	if on == c.frozen {
		return
	}
	if c.frozen = on; on {
		c.still.Lock()
	} else {
		c.still.Unlock()
	}
}

// ServeHTTP is the program: the product's probe, or an app that says its name.
func (c *fakeContainer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c.still.RLock()
	defer c.still.RUnlock()
	if c.nonce != "" {
		_ = json.NewEncoder(w).Encode(map[string]any{"Nonce": c.nonce})
		return
	}
	fmt.Fprintf(w, "%s\n", c.labels["fluxgate.app"])
}

// has reports whether it has all of the labels, each "name" or "name=value".
func (c *fakeContainer) has(labels []string) bool {
	for _, l := range labels {
		name, value, exact := strings.Cut(l, "=")
		if v, ok := c.labels[name]; !ok || exact && v != value {
			return false
		}
	}
	return true
}

// inspected is what Podman says of a container.
func (c *fakeContainer) inspected(ip string) map[string]any {
	ports := map[string]any{}
	if c.published > 0 && c.port > 0 {
		ports[strconv.Itoa(c.port)+"/tcp"] = []map[string]any{{"HostIp": ip, "HostPort": strconv.Itoa(c.published)}}
	}
	return map[string]any{
		"Id": c.id, "Name": c.name,
		"State":           map[string]any{"Status": c.status, "Running": c.status == "running" || c.status == "paused", "Paused": c.status == "paused", "ExitCode": c.exit},
		"Config":          map[string]any{"Labels": c.labels},
		"NetworkSettings": map[string]any{"Ports": ports, "Networks": map[string]any{"fluxgate": map[string]any{"IPAddress": "10.200.0.2"}}},
	}
}

// serveFakeNodes answers for nodes first to last-1, until ctx ends.
func serveFakeNodes(ctx context.Context, first, last int) error {
	var servers []*http.Server
	defer func() {
		for _, s := range servers {
			_ = s.Close()
		}
	}()
	failed := make(chan error, 1)
	for i := first; i < last; i++ {
		ip := fakeAddress(i)
		ln, err := net.Listen("tcp", net.JoinHostPort(ip, fakePort))
		if err != nil {
			return err
		}
		s := &http.Server{Handler: newFakeNode(ip), ReadHeaderTimeout: time.Minute}
		servers = append(servers, s)
		go func() { // ends with the server
			if err := s.Serve(ln); ctx.Err() == nil {
				select {
				case failed <- err:
				default:
				}
			}
		}()
	}
	fmt.Println("ready")
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// rackSize is how many nodes are in a rack.
const rackSize = 40

// fakePort is where a node's Podman listens, on the node's own address.
const fakePort = "2375"

// fakeAddress is the loopback address of a node: a /24 for each rack.
func fakeAddress(node int) string {
	rack := node / rackSize
	return fmt.Sprintf("127.%d.%d.%d", 100+rack/256, rack%256, 1+node%rackSize)
}

// runFakeNodes is the process that answers for some of the nodes.
func runFakeNodes(ctx context.Context, args []string) error {
	var first, last int
	if _, err := fmt.Sscan(strings.Join(args, " "), &first, &last); err != nil {
		return fmt.Errorf("nodes FIRST LAST: %w", err)
	}
	return serveFakeNodes(ctx, first, last)
}

// fakeInstances are the instances that have a container on a node.
func fakeInstances(ctx context.Context, node int) ([]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(fakeAddress(node), fakePort)+"/v4.3.1/libpod/containers/json?all=true", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list []struct{ Labels map[string]string }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(list))
	for _, c := range list {
		names = append(names, c.Labels["fluxgate.instance"])
	}
	return names, nil
}
