package router

import (
	"net"
	"net/url"
	"time"
)

// Node is one machine's Podman API.
type Node struct {
	Name     string
	URL      string // unix:///run/podman/podman.sock, ssh://user@host[:port][/socket], tcp://host:port
	Address  string // data address: an IP address of the node at which gateways reach published ports; empty: this machine, or tunnelled
	Tunnel   bool   // requests travel through the node's SSH connection; no port of the node is open
	HostKey  string // pinned SSH host key: "ssh-ed25519 AAAA…"
	Gateway  string // the gateway whose own machine it is: only that one uses it; empty: every gateway does
	Cordoned bool   // takes no new instances: it is being drained, or was
	Down     bool   // its engine does not answer at present; each gateway's own finding, not stored
	Lost     bool   // the machine cannot be reached: what runs there serves nobody; implies Down, not stored either
	Full     bool   // its disk has next to no room: what can goes elsewhere; not stored either
	Facts    NodeFacts
	Labels   map[string]string
}

// NodeFacts is what checking a node found out by really running a container.
type NodeFacts struct {
	Podman    string // server version
	Runtime   string // OCI runtime that works there: crun, runc
	Rootless  bool
	Direct    bool    // containers are reachable at their own address from here
	Freeze    bool    // the cgroup freezer works
	LimitCPU  bool    // cpu limits may be set
	LimitMem  bool    // memory limits may be set
	LimitPids bool    // pids limits may be set
	Reclaim   Reclaim // how page cache of a frozen container is given back
	NoFile    int64   // highest nofile ulimit that may be asked for
	NProc     int64   // highest nproc ulimit that may be asked for; 0: leave it alone
	CPUs      int
	Memory    Bytes
	Checked   time.Time
	Diagnosis []string // what does not work and what that costs, in sentences
}

// Reclaim is how the page cache of a frozen container is given back on a node.
type Reclaim string

// The ways; none where it cannot be.
const (
	ReclaimNone  Reclaim = ""
	ReclaimAsk   Reclaim = "reclaim" // cgroup v2: memory.reclaim
	ReclaimLimit Reclaim = "limit"   // cgroup v1: a limit too low to be met, which the kernel refuses after it has tried
)

// NodeUse is how full a node is.
type NodeUse struct {
	At        time.Time
	Machine   bool          // the machine itself was looked at; else only what the instances use is known
	Total     Bytes         // the machine's memory
	Available Bytes         // of it, what can be had without anybody's having less: page cache counts as available
	Busy      time.Duration // what the machine's cores have worked, added up, since some time or other
	Instances map[string]InstanceUse
}

// InstanceUse is what an instance has of its node.
type InstanceUse struct {
	Memory Bytes         // page cache included
	CPU    time.Duration // that it has used since it was started
}

// MaxPids is the most processes and threads that one container may have.
const MaxPids = 1024

// Container is one of our containers as a node lists it.
type Container struct {
	ID       string
	Node     string
	Instance string // from its label
	App      string // from its label
	Release  int    // from its label
	State    ContainerState
	Addr     string // host:port, for running and paused ones
	ExitCode int
	OOM      bool // the kernel killed it for memory
}

// ContainerState is what the engine says of a container.
type ContainerState string

// The states that matter here; an engine's other ones count as exited.
const (
	ContainerCreated ContainerState = "created"
	ContainerRunning ContainerState = "running"
	ContainerPaused  ContainerState = "paused"
	ContainerExited  ContainerState = "exited"
)

// ContainerEvent is news from a node's event stream.
type ContainerEvent struct {
	Node      string
	Container string
	Instance  string // from its label
	App       string // from its label
	Kind      ContainerEventKind
	ExitCode  int
	OOM       bool
	At        time.Time
}

// ContainerEventKind is what an event tells.
type ContainerEventKind string

// The events that matter here.
const (
	ContainerDied  ContainerEventKind = "died"
	NodeConnected  ContainerEventKind = "connected" // the stream is open, perhaps again: events before it may have been missed
	NodeUnanswered ContainerEventKind = "broken"    // the stream broke; connecting again
	NodeLost       ContainerEventKind = "lost"      // the machine cannot be reached: nothing on it serves any more
)

// LogLine is one line that a container wrote.
type LogLine struct {
	At       time.Time `json:"at"`
	Instance string    `json:"instance"`
	Stream   string    `json:"stream" enum:"stdout,stderr"`
	Text     string    `json:"text"`
}

// CheckNodeURL is everything that is wrong with how a node is to be reached: by
// the URL of its Podman API, its data address, and whether requests travel
// through SSH.
func CheckNodeURL(raw, address string, tunnel bool) []Violation {
	var bad []Violation
	refuse := func(field, value, limit, remedy string) {
		bad = append(bad, Violation{Field: field, Value: value, Limit: limit, Remedy: remedy})
	}
	u, err := url.Parse(raw)
	if err != nil {
		refuse("url", "(not shown)", "the URL of a Podman API", "write ssh://user@host[:port][/socket], unix:///socket or tcp://host:port")
		return bad
	}
	_, password := u.User.Password()
	switch {
	case password:
		refuse("url", u.Redacted(), "no password in it", "let the gateway log in with a key")
	case u.Scheme == "unix" && (u.Host != "" || u.Path == ""),
		u.Scheme == "tcp" && (u.Port() == "" || u.Path != ""),
		u.Scheme == "ssh" && (u.Hostname() == "" || u.User.Username() == ""),
		u.Scheme != "unix" && u.Scheme != "tcp" && u.Scheme != "ssh":
		refuse("url", raw, "ssh://user@host[:port][/socket], unix:///socket or tcp://host:port", "write it like one of these")
	}
	if address != "" && net.ParseIP(address) == nil {
		refuse("address", address, "an IP address of the node", "write the one that gateways reach, such as 10.0.0.7")
	}
	if ip := net.ParseIP(address); ip != nil && ip.IsUnspecified() {
		refuse("address", address, "one address of the node, not all", "write the one that gateways reach, such as 10.0.0.7")
	}
	if tunnel && u.Scheme != "ssh" {
		refuse("tunnel", "true", "ssh:// URLs", "name the node by an ssh:// URL, or leave --tunnel out")
	}
	if tunnel && address != "" {
		refuse("address", address, "nothing: requests travel through the tunnel", "leave --address or --tunnel out")
	}
	return bad
}
