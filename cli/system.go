package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"runtime"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

func tokenCommand() *cli.Command {
	return &cli.Command{
		Name: "token", Usage: "make, list and remove tokens for the control API",
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef("token has no %q", c.Args().First())
			}
			return usagef("say what to do with tokens")
		},
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make a token and print it, once", ArgsUsage: "NAME", Flags: []cli.Flag{jsonFlag()},
				Action: func(c *cli.Context) error {
					args, err := arguments(c, 1, 1)
					if err != nil {
						return err
					}
					client, err := connect(c)
					if err != nil {
						return err
					}
					defer client.Close()
					t, err := client.CreateToken(c.Context, args[0])
					if err != nil {
						return err
					}
					return emit(c, t, func(w io.Writer) {
						fmt.Fprintln(w, t.Text)
						fmt.Fprintln(c.App.ErrWriter, "Keep it: it cannot be shown again. `fluxgate login URL` takes it.")
					})
				},
			},
			{
				Name: "ls", Usage: "list the tokens", Flags: []cli.Flag{jsonFlag()},
				Action: func(c *cli.Context) error {
					if _, err := arguments(c, 0, 0); err != nil {
						return err
					}
					client, err := connect(c)
					if err != nil {
						return err
					}
					defer client.Close()
					list, err := client.Tokens(c.Context)
					if err != nil {
						return err
					}
					return emit(c, list, func(w io.Writer) {
						rows := [][]string{{"ID", "NAME", "CREATED", "NOTE"}}
						for _, t := range list {
							note := ""
							if t.Current {
								note = "in use here"
							}
							rows = append(rows, []string{t.ID, cell(t.Name), ago(c, t.Created), note})
						}
						table(w, rows)
					})
				},
			},
			{
				Name: "rm", Usage: "remove a token; whoever uses it is locked out at once", ArgsUsage: "ID",
				Flags: []cli.Flag{&cli.BoolFlag{Name: "force", Usage: "even if it is the one in use here"}, jsonFlag()},
				Action: func(c *cli.Context) error {
					args, err := arguments(c, 1, 1)
					if err != nil {
						return err
					}
					client, err := connect(c)
					if err != nil {
						return err
					}
					defer client.Close()
					if err := client.DeleteToken(c.Context, args[0], c.Bool("force")); err != nil {
						return err
					}
					return emit(c, removed{args[0]}, func(w io.Writer) { fmt.Fprintf(w, "token %s is removed\n", args[0]) })
				},
			},
		},
	}
}

// loggedIn is what login prints with --json.
type loggedIn struct {
	Context string   `json:"context" doc:"Name under which the gateway is known here; the current one from now on"`
	Gateway api.Info `json:"gateway"`
}

func loginCommand() *cli.Command {
	return &cli.Command{
		Name: "login", Usage: "use the gateway at an address from now on", ArgsUsage: "URL",
		Description: "Without --token, the token is asked for on a terminal or read from standard input.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "token", Usage: "`TOKEN` from fluxgate token create", EnvVars: []string{"FLUXGATE_TOKEN"}},
			&cli.StringFlag{Name: "ca", Usage: "`FILE` with the root certificate to trust, as fluxgate up prints it", EnvVars: []string{"FLUXGATE_CA"}},
			&cli.StringFlag{Name: "address", Usage: "connect to this `HOST:PORT` instead of the URL's", EnvVars: []string{"FLUXGATE_ADDRESS"}},
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the context; the URL's host if not given"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 1, 1)
			if err != nil {
				return err
			}
			target := Context{URL: args[0], Address: c.String("address"), Token: c.String("token")}
			u, err := url.Parse(target.URL)
			if err != nil || u.Host == "" {
				return usagef("%q is not an address such as https://fluxgate.example.com", args[0])
			}
			if file := c.String("ca"); file != "" {
				pem, err := os.ReadFile(file)
				if err != nil {
					return router.Errorf(router.CodeInvalid, "cannot read the root certificate: %w", err)
				}
				target.CA = string(pem)
			}
			if target.Token == "" {
				if target.Token, err = readSecret(c, "token"); err != nil {
					return err
				}
			}
			client, err := target.client()
			if err != nil {
				return err
			}
			defer client.Close()
			info, err := client.Info(c.Context)
			if err != nil {
				return err
			}
			name := c.String("name")
			if name == "" {
				name = u.Host
			}
			if err := writeContext(name, target, true); err != nil {
				return err
			}
			return emit(c, loggedIn{name, info}, func(w io.Writer) {
				fmt.Fprintf(w, "logged in to %s (Fluxgate %s) with the token %s\n", target.URL, info.Version, clean(info.Token))
			})
		},
	}
}

// versions is what version prints with --json.
type versions struct {
	Version  string `json:"version" doc:"Of this program"`
	Go       string `json:"go" doc:"Of the compiler that built it"`
	Platform string `json:"platform" doc:"e.g. linux/amd64"`
	Gateway  string `json:"gateway,omitempty" doc:"Of the gateway, if one answers"`
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version of this program, and of the gateway if one answers",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c, 0, 0); err != nil {
				return err
			}
			v := versions{Version: Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if client, err := connect(c); err == nil {
				defer client.Close()
				ctx, cancel := context.WithTimeout(c.Context, 2*time.Second)
				defer cancel()
				if info, err := client.Info(ctx); err == nil {
					v.Gateway = info.Version
				}
			}
			return emit(c, v, func(w io.Writer) {
				fmt.Fprintf(w, "fluxgate %s (%s, %s)\n", v.Version, v.Platform, v.Go)
				if v.Gateway != "" {
					fmt.Fprintf(w, "gateway %s\n", v.Gateway)
				}
			})
		},
	}
}

// jsonLine writes v as JSON on one line.
func jsonLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
