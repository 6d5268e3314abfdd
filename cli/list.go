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
			var deaths []string
			if !c.Bool("json") {
				if deaths, err = lastDeaths(c, client, app); err != nil {
					return err
				}
			}
			return emit(c, list, func(w io.Writer) {
				defer func() {
					for _, d := range deaths {
						fmt.Fprintln(w, d)
					}
				}()
				if len(list) == 0 {
					fmt.Fprintln(w, "no instances; the first request starts one")
					return
				}
				rows := [][]string{{"INSTANCE", "APP", "RELEASE", "STATE", "SINCE", "NODE", "ADDRESS", "CPU", "MEM", "NOTE"}}
				for _, in := range list {
					rows = append(rows, []string{in.ID, in.App, version(in.Release), string(in.State), ago(c, in.Since), cell(in.Node), cell(in.Address), cpuOf(in.Usage), memoryOf(in.Usage), instanceNote(in)})
				}
				table(w, rows)
			})
		},
	}
}

// lastDeaths are lines about the apps, or the one, of which an instance died
// lately: those are gone from the list.
func lastDeaths(c *cli.Context, client *api.Client, app string) (lines []string, err error) {
	var apps []api.App
	if app == "" {
		apps, err = client.AppsThatDied(c.Context)
	} else {
		apps = make([]api.App, 1)
		apps[0], err = client.App(c.Context, app)
	}
	if err != nil {
		return nil, err
	}
	for _, a := range apps {
		d := a.Death
		if d == nil {
			continue
		}
		line := fmt.Sprintf("%s: an instance died %s: %s", a.Name, ago(c, d.At), clean(d.Reason))
		if d.Advice != "" {
			line += "; " + clean(d.Advice)
		}
		lines = append(lines, line+"; `fluxgate why "+a.Name+"` tells more")
	}
	return lines, nil
}

func instanceNote(in api.Instance) string {
	switch {
	case in.Reason != "":
		return clean(in.Reason)
	case in.Doing != "":
		return in.Doing + " under way"
	case in.Usage != nil && in.Usage.Advice != "":
		return in.Usage.Advice
	case !in.Serving:
		return "kept for rollback"
	}
	return ""
}

// cpuOf is "0.20/1": cores that are used, and that may be.
func cpuOf(u *api.Usage) string {
	switch {
	case u == nil:
		return "-"
	case u.CPULimit == 0:
		return strconv.FormatFloat(u.CPU, 'f', 2, 64)
	}
	return strconv.FormatFloat(u.CPU, 'f', 2, 64) + "/" + strconv.FormatFloat(u.CPULimit, 'g', 3, 64)
}

// memoryOf is "12.0 MB of 512.0 MB".
func memoryOf(u *api.Usage) string {
	switch {
	case u == nil:
		return "-"
	case u.MemoryLimit == 0:
		return amount(u.Memory)
	}
	return amount(u.Memory) + " of " + amount(u.MemoryLimit)
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
