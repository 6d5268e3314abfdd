package cli

import (
	"fmt"
	"os"
	"syscall"

	"github.com/fluxgate/fluxgate/gateway/api"
)

// openFiles is how many files this process has open, and how many it may; false
// where the system does not tell.
func openFiles() (open, limit int, ok bool) {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return 0, 0, false
	}
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0, 0, false
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, 0, false
	}
	return len(names), int(min(r.Cur, 1<<30)), true
}

// filesPerNode is how many files a gateway has open for a node that it reaches
// through SSH: the connection, the socket that leads into it, and both ends of
// the stream of events. filesBeside is a little of what it needs for clients.
const (
	filesPerNode = 4
	filesBeside  = 2000
)

// checkFiles judges how many files the gateway has open. Connections are files;
// without any left it can accept none.
func checkFiles(open, limit, nodes int) api.Check {
	c := api.Check{Name: "open files", Status: api.CheckOK, Detail: fmt.Sprintf("%d of at most %d", open, limit)}
	need := filesPerNode*nodes + filesBeside
	switch {
	case open > limit/5*4:
		need = max(need, 2*limit)
	case limit >= need:
		return c
	default:
		c.Detail += fmt.Sprintf(", which is little for %d nodes", nodes)
	}
	c.Status, c.Remedy = api.CheckWarning, fmt.Sprintf("let the gateway open more files, %d at least: LimitNOFILE= in its systemd unit, or ulimit -n before `fluxgate up`", need)
	return c
}
