package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// fakeImage is the one image that every fake node has.
const fakeImage = "f1a5c0de00000000000000000000000000000000000000000000000000000001"

// fakeNode answers like one machine's Podman, as far as the product asks: its
// containers are records, and those that run answer HTTP at a port of their own
// on the node's address. It answers at once: what an engine takes for its work
// is not what is measured with it.
type fakeNode struct {
	ip string

	mu         sync.Mutex
	containers map[string]*fakeContainer // by name
	network    json.RawMessage           // nil: not made yet
	followers  map[chan []byte]bool      // of the event stream
}

// What a machine that does not exist has.
const (
	fakeCores  = 8
	fakeMemory = 16 << 30
	fakeDisk   = 1 << 40
)

func newFakeNode(ip string) *fakeNode {
	return &fakeNode{ip: ip, containers: map[string]*fakeContainer{}, followers: map[chan []byte]bool{}}
}

// ServeHTTP answers /v4.x/libpod/… and /_ping.
func (n *fakeNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) > 2 && strings.HasPrefix(parts[0], "v") && parts[1] == "libpod" {
		parts = parts[2:]
	}
	name := ""
	if len(parts) > 1 {
		name = parts[1]
	}
	verb := parts[len(parts)-1]
	switch parts[0] {
	case "_ping":
		w.Header().Set("Libpod-API-Version", "4.3.1")
		_, _ = io.WriteString(w, "OK")
	case "info":
		reply(w, http.StatusOK, map[string]any{
			"host":    map[string]any{"cpus": fakeCores, "memTotal": fakeMemory, "ociRuntime": map[string]any{"name": "crun"}, "security": map[string]any{}},
			"store":   map[string]any{"graphRoot": "/var/lib/containers", "graphRootAllocated": fakeDisk, "graphRootUsed": 0},
			"version": map[string]any{"Version": "4.3.1"},
		})
	case "events":
		n.follow(w, r)
	case "images":
		n.images(w, r, name, verb)
	case "networks":
		n.networks(w, r, verb)
	case "containers":
		switch {
		case verb == "create":
			n.create(w, r)
		case verb == "json" && len(parts) == 2:
			n.list(w, r.URL.Query().Get("filters"))
		case verb == "stats" && len(parts) == 2:
			n.stats(w)
		default:
			n.container(w, r, name, verb)
		}
	default:
		refuse(w, http.StatusNotFound, "the fake has no "+r.URL.Path)
	}
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// refuse answers as Podman does, in its own words.
func refuse(w http.ResponseWriter, status int, message string) {
	reply(w, status, map[string]any{"cause": message, "message": message, "response": status})
}

// images has one image, under every name.
func (n *fakeNode) images(w http.ResponseWriter, r *http.Request, name, verb string) {
	_, _ = io.Copy(io.Discard, r.Body)
	switch {
	case verb == "exists":
		w.WriteHeader(http.StatusNoContent)
	case name == "json":
		reply(w, http.StatusOK, []map[string]any{{"Id": fakeImage, "Size": 10 << 20, "Created": time.Now().Unix()}})
	case verb == "json":
		reply(w, http.StatusOK, map[string]any{"Id": fakeImage, "Size": 10 << 20})
	case name == "load":
		reply(w, http.StatusOK, map[string]any{"Names": []string{"localhost/loaded"}})
	case name == "pull":
		reply(w, http.StatusOK, map[string]any{"id": fakeImage, "images": []string{fakeImage}})
	default:
		refuse(w, http.StatusNotFound, "the fake keeps no images")
	}
}

func (n *fakeNode) networks(w http.ResponseWriter, r *http.Request, verb string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case verb == "create":
		body, err := io.ReadAll(r.Body)
		if err != nil || !json.Valid(body) {
			refuse(w, http.StatusBadRequest, "no network")
			return
		}
		n.network = body
		reply(w, http.StatusOK, n.network)
	case n.network == nil:
		refuse(w, http.StatusNotFound, "network not found")
	case verb == "exists":
		w.WriteHeader(http.StatusNoContent)
	default:
		reply(w, http.StatusOK, n.network)
	}
}

// follow streams what happens to containers, until the client goes.
func (n *fakeNode) follow(w http.ResponseWriter, r *http.Request) {
	events := make(chan []byte, 256)
	n.mu.Lock()
	n.followers[events] = true
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(n.followers, events)
		n.mu.Unlock()
	}()
	rc := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	_ = rc.Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			if _, err := w.Write(e); err != nil {
				return
			}
			_ = rc.Flush()
		}
	}
}

// died tells the followers of a container's end. The node's lock is held.
func (n *fakeNode) died(c *fakeContainer) {
	labels := map[string]string{"containerExitCode": fmt.Sprint(c.exit), "name": c.name}
	for k, v := range c.labels {
		labels[k] = v
	}
	now := time.Now()
	e, _ := json.Marshal(map[string]any{ // it holds nothing that could fail
		"Type": "container", "Action": "died", "time": now.Unix(), "timeNano": now.UnixNano(),
		"Actor": map[string]any{"ID": c.id, "Attributes": labels},
	})
	e = append(e, '\n')
	for f := range n.followers {
		select {
		case f <- e:
		default: // like the journal, it does not wait for a reader that hangs
		}
	}
}

// create makes a container from a specification.
func (n *fakeNode) create(w http.ResponseWriter, r *http.Request) {
	var spec struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
		Env    map[string]string `json:"env"`
		Ports  []struct {
			ContainerPort int `json:"container_port"`
		} `json:"portmappings"`
	}
	if err := json.NewDecoder(r.Body).Decode(&spec); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	var chance [32]byte
	_, _ = rand.Read(chance[:]) // never fails since Go 1.24
	c := &fakeContainer{id: hex.EncodeToString(chance[:]), name: spec.Name, labels: spec.Labels, nonce: spec.Env["NONCE"], status: "created", created: time.Now()}
	if len(spec.Ports) > 0 {
		c.port = spec.Ports[0].ContainerPort
	}
	n.mu.Lock()
	_, taken := n.containers[c.name]
	if !taken {
		n.containers[c.name] = c
	}
	n.mu.Unlock()
	if taken {
		refuse(w, http.StatusInternalServerError, "the container name \""+c.name+"\" is already in use")
		return
	}
	reply(w, http.StatusCreated, map[string]any{"Id": c.id, "Warnings": []string{}})
}

// list is all containers that have the labels asked for.
func (n *fakeNode) list(w http.ResponseWriter, filters string) {
	var want map[string][]string
	if filters != "" {
		if err := json.Unmarshal([]byte(filters), &want); err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	out := []map[string]any{}
	for _, c := range n.containers {
		if c.has(want["label"]) {
			out = append(out, map[string]any{"Id": c.id, "Names": []string{c.name}, "Labels": c.labels, "State": c.status, "ExitCode": c.exit, "Created": c.created})
		}
	}
	reply(w, http.StatusOK, out)
}

// stats is what all containers use: as much each as a small app.
func (n *fakeNode) stats(w http.ResponseWriter) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := []map[string]any{}
	for _, c := range n.containers {
		if c.status == "running" || c.status == "paused" {
			out = append(out, map[string]any{"Name": c.name, "MemUsage": 8 << 20, "CPUNano": 1_000_000})
		}
	}
	reply(w, http.StatusOK, map[string]any{"Error": nil, "Stats": out})
}

// container does something to one container.
func (n *fakeNode) container(w http.ResponseWriter, r *http.Request, name, verb string) {
	if plain, err := url.PathUnescape(name); err == nil {
		name = plain
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.find(name)
	if c == nil {
		refuse(w, http.StatusNotFound, "no such container")
		return
	}
	if r.Method == http.MethodDelete {
		n.end(c, 137)
		delete(n.containers, c.name)
		reply(w, http.StatusOK, []map[string]any{{"Id": c.id}})
		return
	}
	improper := func() { refuse(w, http.StatusInternalServerError, "container state improper") }
	switch verb {
	case "json":
		reply(w, http.StatusOK, c.inspected(n.ip))
	case "logs":
		w.WriteHeader(http.StatusOK)
	case "start":
		switch c.status {
		case "paused":
			improper()
		case "running":
			w.WriteHeader(http.StatusNotModified)
		default:
			if err := c.start(n.ip); err != nil {
				refuse(w, http.StatusInternalServerError, err.Error())
				return
			}
			w.WriteHeader(http.StatusNoContent)
		}
	case "stop":
		switch c.status {
		case "paused":
			improper()
		case "running":
			n.end(c, 0)
			w.WriteHeader(http.StatusNoContent)
		default:
			w.WriteHeader(http.StatusNotModified)
		}
	case "pause", "unpause":
		from, to := "running", "paused"
		if verb == "unpause" {
			from, to = to, from
		}
		if c.status != from {
			improper()
			return
		}
		c.status = to
		c.freeze(to == "paused")
		w.WriteHeader(http.StatusNoContent)
	default:
		refuse(w, http.StatusNotFound, "the fake cannot "+verb)
	}
}

// find is a container by name or ID.
func (n *fakeNode) find(name string) *fakeContainer {
	if c := n.containers[name]; c != nil {
		return c
	}
	for _, c := range n.containers {
		if c.id == name {
			return c
		}
	}
	return nil
}

// end ends a container's program, where it runs. The node's lock is held.
func (n *fakeNode) end(c *fakeContainer, code int) {
	if c.status != "running" && c.status != "paused" {
		return
	}
	c.stop()
	c.status, c.exit = "exited", code
	n.died(c)
}
