package cli

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/gateway/api"
)

func appsCommand() *cli.Command {
	return &cli.Command{
		Name: "apps", Usage: "list the apps",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c, 0, 0); err != nil {
				return err
			}
			client, err := connect(c)
			if err != nil {
				return err
			}
			defer client.Close()
			apps, err := client.Apps(c.Context)
			if err != nil {
				return err
			}
			return emit(c, apps, func(w io.Writer) {
				if len(apps) == 0 {
					fmt.Fprintln(w, "no apps yet; `fluxgate push` in an app's folder makes one")
					return
				}
				rows := [][]string{{"NAME", "STATE", "RELEASE", "READY", "REQ/S", "LAST REQUEST", "ADDRESS"}}
				for _, a := range apps {
					var last time.Time
					if a.LastActive != nil {
						last = *a.LastActive
					}
					rows = append(rows, []string{
						a.Name, string(a.State), version(a.Release), strconv.Itoa(a.Instances.Ready),
						strconv.FormatFloat(a.RPS, 'f', 1, 64), ago(c, last), a.URL,
					})
				}
				table(w, rows)
			})
		},
	}
}

func psCommand() *cli.Command {
	return &cli.Command{
		Name: "ps", Usage: "list the instances of one app or of all", ArgsUsage: "[APP]",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 0, 1)
			if err != nil {
				return err
			}
			app := ""
			if len(args) == 1 {
				if app, err = appName(args[0]); err != nil {
					return err
				}
			}
			client, err := connect(c)
			if err != nil {
				return err
			}
			defer client.Close()
			list, err := client.Instances(c.Context, app)
			if err != nil {
				return err
			}
			return emit(c, list, func(w io.Writer) {
				if len(list) == 0 {
					fmt.Fprintln(w, "no instances; the first request starts one")
					return
				}
				rows := [][]string{{"INSTANCE", "APP", "RELEASE", "STATE", "SINCE", "NODE", "ADDRESS", "NOTE"}}
				for _, in := range list {
					rows = append(rows, []string{in.ID, in.App, version(in.Release), string(in.State), ago(c, in.Since), cell(in.Node), cell(in.Address), instanceNote(in)})
				}
				table(w, rows)
			})
		},
	}
}

func instanceNote(in api.Instance) string {
	switch {
	case in.Reason != "":
		return clean(in.Reason)
	case in.Doing != "":
		return in.Doing + " under way"
	case !in.Serving:
		return "kept for rollback"
	}
	return ""
}

// onApp makes the action of a command that takes one app and lists something.
func onApp[T any](list func(c *cli.Context, client *api.Client, app string) (T, error), plain func(c *cli.Context, w io.Writer, v T)) cli.ActionFunc {
	return func(c *cli.Context) error {
		args, err := arguments(c, 1, 1)
		if err != nil {
			return err
		}
		app, err := appName(args[0])
		if err != nil {
			return err
		}
		client, err := connect(c)
		if err != nil {
			return err
		}
		defer client.Close()
		v, err := list(c, client, app)
		if err != nil {
			return err
		}
		return emit(c, v, func(w io.Writer) { plain(c, w, v) })
	}
}

func releasesCommand() *cli.Command {
	return &cli.Command{
		Name: "releases", Usage: "list an app's releases, newest first", ArgsUsage: "APP",
		Flags: []cli.Flag{jsonFlag()},
		Action: onApp(func(c *cli.Context, client *api.Client, app string) ([]api.Release, error) {
			return client.Releases(c.Context, app)
		}, func(c *cli.Context, w io.Writer, list []api.Release) {
			rows := [][]string{{"RELEASE", "STATE", "CREATED", "BY", "REASON", "SOURCE"}}
			for _, r := range list {
				state := "-"
				switch {
				case r.Serving:
					state = "serving"
				case r.Failed != "":
					state = "failed"
				}
				rows = append(rows, []string{version(r.Number), state, ago(c, r.Created), cell(r.By), cell(r.Note), clean(string(r.Source.Kind) + " " + r.Source.Path)})
			}
			table(w, rows)
		}),
	}
}

func domainsCommand() *cli.Command {
	return &cli.Command{
		Name: "domains", Usage: "list, add or remove an app's hostnames", ArgsUsage: "APP [add HOST… | rm HOST…]",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			app, verb, hosts, err := appVerb(c, "add", "rm")
			if err != nil {
				return err
			}
			client, err := connect(c)
			if err != nil {
				return err
			}
			defer client.Close()
			var list []api.Domain
			switch verb {
			case "add":
				for _, host := range hosts {
					if list, err = client.AddDomain(c.Context, app, host); err != nil {
						return err
					}
				}
			case "rm":
				for _, host := range hosts {
					if list, err = client.RemoveDomain(c.Context, app, host); err != nil {
						return err
					}
				}
			default:
				if list, err = client.Domains(c.Context, app); err != nil {
					return err
				}
			}
			return emit(c, list, func(w io.Writer) {
				rows := [][]string{{"HOST", "ADDRESS"}}
				for _, d := range list {
					rows = append(rows, []string{d.Host, d.URL})
				}
				table(w, rows)
			})
		},
	}
}

// appVerb reads "APP", or "APP VERB ARGUMENT…" with one of the verbs.
func appVerb(c *cli.Context, verbs ...string) (app, verb string, rest []string, err error) {
	args, err := arguments(c, 1, -1)
	if err != nil {
		return "", "", nil, err
	}
	if app, err = appName(args[0]); err != nil || len(args) == 1 {
		return app, "", nil, err
	}
	verb, rest = args[1], args[2:]
	switch {
	case !slices.Contains(verbs, verb):
		return "", "", nil, usagef("%s has no %q; there is %s", c.Command.Name, verb, strings.Join(verbs, " and "))
	case len(rest) == 0:
		return "", "", nil, usagef("%s needs an argument more", verb)
	}
	return app, verb, rest, nil
}

// version is "v3", "-" for none.
func version(number int) string {
	if number == 0 {
		return "-"
	}
	return "v" + strconv.Itoa(number)
}
