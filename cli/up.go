package cli

import (
	"log/slog"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/router"
)

// upCommand runs the gateway.
func upCommand() *cli.Command {
	return &cli.Command{
		Name:  "up",
		Usage: "run the gateway on this machine",
		Description: "Starts what is missing (a private Redis, the Podman service), adopts what runs already, and serves until\n" +
			"it gets SIGTERM or ^C; requests in flight are then finished. Containers keep running and are adopted by the next `up`.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "domain", Usage: "apps are at https://NAME.`DOMAIN`", Value: "localhost", EnvVars: []string{"FLUXGATE_DOMAIN"}},
			&cli.StringFlag{Name: "http", Usage: "`ADDRESS` for HTTP: a port, or host:port; on loopback alone if the domain is localhost", DefaultText: "80 as root, else 8080", EnvVars: []string{"FLUXGATE_HTTP"}},
			&cli.StringFlag{Name: "https", Usage: "`ADDRESS` for HTTPS, likewise", DefaultText: "443 as root, else 8443", EnvVars: []string{"FLUXGATE_HTTPS"}},
			&cli.StringFlag{Name: "redis", Usage: "`URL` of a Redis or Valkey; without it, a private one is started", EnvVars: []string{"FLUXGATE_REDIS"}},
			&cli.StringSliceFlag{Name: "node", Usage: "`URL` of a Podman API for this gateway alone; may be given several times; without it, this machine's", EnvVars: []string{"FLUXGATE_NODE"}},
			&cli.BoolFlag{Name: "no-local", Usage: "run no apps on this machine, only on nodes that were added", EnvVars: []string{"FLUXGATE_NO_LOCAL"}},
			&cli.StringFlag{Name: "ssh-key", Usage: "`FILE` of the private key for nodes at ssh:// addresses", DefaultText: "the agent's, or ~/.ssh/id_*", EnvVars: []string{"FLUXGATE_SSH_KEY"}},
			registryFlag(),
			&cli.StringFlag{Name: "email", Usage: "`ADDRESS` for the certificate authority's notices", EnvVars: []string{"FLUXGATE_EMAIL"}},
			&cli.StringFlag{Name: "acme-ca", Usage: "directory `URL` of the ACME authority for public names", DefaultText: "Let's Encrypt", EnvVars: []string{"FLUXGATE_ACME_CA"}},
			&cli.StringFlag{Name: "acme-root", Usage: "`FILE` with certificates to trust when talking to the ACME authority", EnvVars: []string{"FLUXGATE_ACME_ROOT"}},
			&cli.BoolFlag{Name: "plain-http", Usage: "serve apps over HTTP too instead of redirecting, as behind a proxy that ends TLS", EnvVars: []string{"FLUXGATE_PLAIN_HTTP"}},
			&cli.BoolFlag{Name: "verbose", Usage: "log what is done, not only what goes wrong", EnvVars: []string{"FLUXGATE_VERBOSE"}},
		},
		Action: up,
	}
}

func up(c *cli.Context) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	cfg := serveConfig{
		Data: c.String("data"), Domain: c.String("domain"), HTTP: c.String("http"), HTTPS: c.String("https"),
		Redis: c.String("redis"), Nodes: c.StringSlice("node"), Registry: c.String("registry"), NoLocal: c.Bool("no-local"), SSHKey: c.String("ssh-key"), Email: c.String("email"),
		ACMECA: c.String("acme-ca"), ACMERoot: c.String("acme-root"), PlainHTTP: c.Bool("plain-http"),
		Out: c.App.Writer,
	}
	if cfg.Domain != "localhost" {
		domain, bad := router.ParseDomain("--domain", cfg.Domain)
		if bad != nil {
			return router.Invalid("the call", []router.Violation{*bad})
		}
		cfg.Domain = domain
	}
	plain, secure := "8080", "8443"
	if os.Geteuid() == 0 {
		plain, secure = "80", "443"
	}
	var err error
	if cfg.HTTP, err = listenAddress("http", orElse(cfg.HTTP, plain), cfg.Domain); err != nil {
		return err
	}
	if cfg.HTTPS, err = listenAddress("https", orElse(cfg.HTTPS, secure), cfg.Domain); err != nil {
		return err
	}
	level := slog.LevelWarn
	if c.Bool("verbose") {
		level = slog.LevelInfo
	}
	cfg.Log = slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: level}))
	return serve(c.Context, cfg)
}

func orElse(value, other string) string {
	if strings.TrimSpace(value) == "" {
		return other
	}
	return value
}
