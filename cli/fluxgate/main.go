// Command fluxgate is the gateway, its control API, its autoscaler and the
// command line.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/fluxgate/fluxgate/cli"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version string

func main() {
	cli.SetVersion(version)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process as it would have without us.
	context.AfterFunc(ctx, stop)
	os.Exit(cli.Run(ctx, cli.App(), os.Args))
}
