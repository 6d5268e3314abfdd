package cli

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/podman"
)

// busyPort is where apps ask not to be stopped, at this machine's address in
// their own network. Containers outlive a gateway and go on with what they were
// told, so it is always the same.
const busyPort = 4077

const (
	busyCall  = 10 * time.Second // the longest that one such call may take
	busyRetry = 10 * time.Second // how often the address is looked at, and tried again
)

// openBusy serves busy leases to the containers of this machine. Where it
// cannot, there is still the field of an answer.
func (g *gatewayProcess) openBusy(context.Context) error {
	for _, n := range g.ownNodes {
		if n.Node().Facts.Direct {
			g.background(func(ctx context.Context) { g.serveBusy(ctx, n) })
		}
	}
	return nil
}

// serveBusy listens in a node's network until ctx ends. The network may be made
// anew meanwhile, with another address.
func (g *gatewayProcess) serveBusy(ctx context.Context, n *podman.Node) {
	handler := api.BusyHandler(g.catalog, g.control)
	told := false
	tick := time.NewTicker(busyRetry)
	defer tick.Stop()
	var server *http.Server
	served := "" // the address
	closed := make(chan struct{})
	end := func() {
		if server != nil {
			_ = server.Close()
			<-closed
			server, served = nil, ""
		}
	}
	defer end()
	for {
		host, err := n.HostAddress(ctx)
		if err == nil && host != served {
			end()
			var ln net.Listener
			if ln, err = listenAhead(ctx, net.JoinHostPort(host, strconv.Itoa(busyPort))); err == nil {
				server = &http.Server{Handler: handler, ReadHeaderTimeout: busyCall, ReadTimeout: busyCall, WriteTimeout: busyCall, MaxHeaderBytes: 8 << 10}
				served, closed = host, make(chan struct{})
				go func(server *http.Server, closed chan struct{}) {
					defer close(closed)
					_ = server.Serve(ln) // until end
				}(server, closed)
			}
		}
		if err != nil && !told && ctx.Err() == nil {
			told = true
			g.Log.Warn("apps cannot ask by a call of their own not to be stopped; the field Fluxgate-Busy of an answer works", "node", n.Node().Name, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// listenAhead listens at an address that the machine may not have yet: the
// containers' bridge comes with the first of them, and goes with the last. Other
// gateways on the machine may listen there, too: each answers for all.
func listenAhead(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = errors.Join(
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
			)
		})
		return errors.Join(err, failed)
	}}
	return lc.Listen(ctx, "tcp", address)
}
