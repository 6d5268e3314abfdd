package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

func logsCommand() *cli.Command {
	return &cli.Command{
		Name: "logs", Usage: "show what an app's instances wrote, those that are gone included", ArgsUsage: "APP",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what is written from now on"},
			&cli.IntFlag{Name: "lines", Aliases: []string{"n"}, Usage: "begin with the last `N` lines; 0: all that are kept", Value: 100},
			&cli.StringFlag{Name: "since", Usage: "leave out what is older than this `DURATION`, e.g. 10m"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 1, 1)
			if err != nil {
				return err
			}
			app, err := appName(args[0])
			if err != nil {
				return err
			}
			opts := api.LogOptions{Lines: c.Int("lines"), Follow: c.Bool("follow")}
			if opts.Lines < 0 {
				return usagef("--lines cannot be negative")
			}
			if since := c.String("since"); since != "" {
				d, err := router.ParseDuration(since)
				if err != nil || d <= 0 || d == router.Never {
					return usagef("--since: %q is not a duration such as 10m", since)
				}
				opts.Since = now(c).Add(-d.D())
			}
			client, err := connect(c)
			if err != nil {
				return err
			}
			defer client.Close()
			err = client.Logs(c.Context, app, opts, func(l router.LogLine) error { return printLog(c, l) })
			if opts.Follow && c.Err() != nil {
				return nil // Ctrl-C is how following ends
			}
			return err
		},
	}
}

// printLog writes one line; with --json it is one JSON object a line.
func printLog(c *cli.Context, l router.LogLine) error {
	if c.Bool("json") {
		return jsonLine(c.App.Writer, l)
	}
	short := l.Instance[strings.LastIndexByte(l.Instance, '-')+1:]
	_, err := fmt.Fprintf(c.App.Writer, "%s %s %s\n", l.At.Local().Format("2006-01-02 15:04:05.000"), short, strings.TrimRight(l.Text, "\r\n"))
	return err
}

func openCommand() *cli.Command {
	return &cli.Command{
		Name: "open", Usage: "print an app's address, and open it where there is a desktop", ArgsUsage: "APP",
		Flags: []cli.Flag{jsonFlag()},
		Action: onApp(func(c *cli.Context, client *api.Client, app string) (api.App, error) {
			return client.App(c.Context, app)
		}, func(c *cli.Context, w io.Writer, app api.App) {
			fmt.Fprintln(w, app.URL)
			if isTerminal(w) && (os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "") {
				if err := exec.CommandContext(c.Context, "xdg-open", app.URL).Run(); err != nil {
					fmt.Fprintf(c.App.ErrWriter, "fluxgate: cannot open a browser: %s\n", err)
				}
			}
		}),
	}
}

// removed is what rm prints with --json.
type removed struct {
	Removed string `json:"removed" doc:"Name of the app"`
}

func rmCommand() *cli.Command {
	return &cli.Command{
		Name: "rm", Usage: "remove an app: its instances, releases, secrets and hostnames", ArgsUsage: "APP",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"}, jsonFlag()},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 1, 1)
			if err != nil {
				return err
			}
			name, err := appName(args[0])
			if err != nil {
				return err
			}
			client, err := connect(c)
			if err != nil {
				return err
			}
			defer client.Close()
			if !c.Bool("yes") {
				if !isTerminal(c.App.Reader) {
					return router.Errorf(router.CodeInvalid, "removing %s cannot be undone, and there is no terminal to ask on; pass --yes", name)
				}
				app, err := client.App(c.Context, name)
				if err != nil {
					return err
				}
				fmt.Fprintf(c.App.ErrWriter, "Remove %s (%s), all its releases and secrets? [y/N] ", app.Name, app.URL)
				answer, err := bufio.NewReader(c.App.Reader).ReadString('\n')
				if a := strings.ToLower(strings.TrimSpace(answer)); err != nil || (a != "y" && a != "yes") {
					fmt.Fprintln(c.App.ErrWriter, "nothing was removed")
					return errFailed
				}
			}
			if err := client.DeleteApp(c.Context, name); err != nil {
				return err
			}
			return emit(c, removed{name}, func(w io.Writer) { fmt.Fprintf(w, "%s is removed\n", name) })
		},
	}
}

func rollbackCommand() *cli.Command {
	return &cli.Command{
		Name: "rollback", Usage: "let an older release serve", ArgsUsage: "APP [vN]",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 1, 2)
			if err != nil {
				return err
			}
			app, err := appName(args[0])
			if err != nil {
				return err
			}
			number := 0
			if len(args) == 2 {
				number, err = strconv.Atoi(strings.TrimPrefix(args[1], "v"))
				if err != nil || number < 1 {
					return usagef("%q is not a release such as v3", args[1])
				}
			}
			client, err := connect(c)
			if err != nil {
				return err
			}
			defer client.Close()
			return deploying(c, func(show *progress) (api.Deployed, error) {
				return client.Rollback(c.Context, app, number, show.event)
			})
		},
	}
}

func envCommand() *cli.Command {
	return &cli.Command{
		Name: "env", Usage: "show or change an app's environment; what is set here is secret", ArgsUsage: "APP [set NAME=VALUE… | unset NAME…]",
		Description: "set makes a new release from the serving one. With a NAME alone, its value is read from the terminal or from standard input,\nand so is in no shell history.\nWith --json, set and unset print what push prints.",
		Flags:       []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			app, verb, rest, err := appVerb(c, "set", "unset")
			if err != nil {
				return err
			}
			var change api.EnvChange
			switch verb {
			case "set":
				if len(rest) == 1 && !strings.Contains(rest[0], "=") {
					value, err := readSecret(c, "value of "+rest[0])
					if err != nil {
						return err
					}
					change.Set = map[string]string{rest[0]: value}
				} else if change.Set, err = assignments(rest); err != nil {
					return err
				}
			case "unset":
				change.Unset = rest
			}
			client, err := connect(c)
			if err != nil {
				return err
			}
			defer client.Close()
			if verb != "" {
				return deploying(c, func(show *progress) (api.Deployed, error) {
					return client.ChangeEnv(c.Context, app, change, show.event)
				})
			}
			list, err := client.Env(c.Context, app)
			if err != nil {
				return err
			}
			return emit(c, list, func(w io.Writer) {
				if len(list) == 0 {
					fmt.Fprintln(w, "no variables are set")
					return
				}
				rows := [][]string{{"NAME", "VALUE"}}
				for _, v := range list {
					rows = append(rows, []string{v.Name, clean(v.Value)})
				}
				table(w, rows)
			})
		},
	}
}

// assignments reads NAME=VALUE…, and repeats no value in an error: it may be a
// secret.
func assignments(pairs []string) (map[string]string, error) {
	m := make(map[string]string, len(pairs))
	for i, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usagef("argument %d after set is not NAME=VALUE", i+1)
		}
		if _, twice := m[name]; twice {
			return nil, usagef("%s is given twice", name)
		}
		m[name] = value
	}
	return m, nil
}

// readSecret asks for a secret on a terminal without showing it, or reads
// standard input to its end, less one line feed.
func readSecret(c *cli.Context, what string) (string, error) {
	if f, ok := c.App.Reader.(*os.File); ok && isTerminal(f) {
		fmt.Fprintf(c.App.ErrWriter, "%s: ", what)
		text, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(c.App.ErrWriter)
		if err != nil {
			return "", router.Errorf(router.CodeInvalid, "cannot read the %s: %w", what, err)
		}
		return string(text), nil
	}
	text, err := io.ReadAll(io.LimitReader(c.App.Reader, 1<<20))
	if err != nil {
		return "", router.Errorf(router.CodeInvalid, "cannot read the %s: %w", what, err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), nil
}

// deploying runs a deploy with its progress shown, and prints what it came to.
func deploying(c *cli.Context, run func(*progress) (api.Deployed, error)) error {
	start := time.Now()
	show := newProgress(c)
	done, err := run(show)
	show.end(err == nil)
	if err != nil {
		return err
	}
	return emit(c, done, func(w io.Writer) { printDeployed(w, done, time.Since(start)) })
}

func printDeployed(w io.Writer, d api.Deployed, took time.Duration) {
	for _, u := range d.URLs {
		fmt.Fprintln(w, u)
	}
	switch {
	case d.Settings:
		fmt.Fprintf(w, "%s %s serves as before, with new settings\n", d.App, version(d.Release))
	case d.Unchanged:
		fmt.Fprintf(w, "nothing changed: %s %s serves\n", d.App, version(d.Release))
	default:
		parts := make([]string, 0, len(d.Timings))
		for _, t := range d.Timings {
			parts = append(parts, t.Step+" "+seconds(time.Duration(t.MS*1e6)))
		}
		fmt.Fprintf(w, "%s %s serves after %s: %s\n", d.App, version(d.Release), seconds(took), strings.Join(parts, ", "))
	}
}
