package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

// Version is the product's version.
var Version = buildVersion()

// SetVersion is for package main, where the build puts the version; empty
// leaves what the module says.
func SetVersion(v string) {
	if v != "" {
		Version = v
	}
}

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// App is the command tree. Run it with Run.
func App() *cli.App {
	app := &cli.App{
		Name:                   "fluxgate",
		Usage:                  "push a folder or an image, get an HTTPS address; nothing runs until somebody calls it",
		HideVersion:            true,
		HideHelpCommand:        true,
		UseShortOptionHandling: true,
		// Values may hold commas.
		DisableSliceFlagSeparator: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data", Usage: "the gateway's data `DIR`", Value: DataDir(), DefaultText: "/var/lib/fluxgate as root, else ~/.local/share/fluxgate", EnvVars: []string{"FLUXGATE_DATA"}},
			&cli.StringFlag{Name: "context", Usage: "`NAME` of the gateway to talk to; see login", EnvVars: []string{"FLUXGATE_CONTEXT"}},
		},
		Commands: []*cli.Command{
			upCommand(),
			pushCommand(),
			appsCommand(),
			psCommand(),
			logsCommand(),
			openCommand(),
			rmCommand(),
			releasesCommand(),
			rollbackCommand(),
			envCommand(),
			domainsCommand(),
			policyCommand(),
			whyCommand(),
			nodeCommand(),
			backupCommand(),
			restoreCommand(),
			tokenCommand(),
			loginCommand(),
			doctorCommand(),
			versionCommand(),
		},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef("there is no command %q%s", c.Args().First(), didYouMean(c.Args().First(), c.App.Commands))
			}
			return cli.ShowAppHelp(c)
		},
		Reader: os.Stdin, Writer: os.Stdout, ErrWriter: os.Stderr,
		// Run reports errors and chooses the exit code.
		ExitErrHandler: func(*cli.Context, error) {},
	}
	for _, c := range app.Commands {
		prepare(c)
	}
	app.OnUsageError = wrongFlag
	return app
}

// prepare gives a command and those below it what all of them share.
func prepare(c *cli.Command) {
	c.HideHelpCommand = true
	c.OnUsageError = wrongFlag
	for _, sub := range c.Subcommands {
		prepare(sub)
	}
}

func wrongFlag(_ *cli.Context, err error, _ bool) error {
	return &usageError{strings.Replace(err.Error(), "flag provided but not defined: -", "there is no flag -", 1)}
}

// usageError is a wrong call: exit code 2, with the usage line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// errFailed ends with exit code 1 when everything was said already.
var errFailed = errors.New("failed")

// Run runs the command that args (with the program's name first) ask for and
// returns the exit code: 0 done, 1 failed, 2 wrong usage. Flags may come before
// or after arguments.
func Run(ctx context.Context, app *cli.App, args []string) int {
	args, used, err := arrange(app, args)
	if err == nil {
		err = app.RunContext(ctx, args)
	}
	var usage *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		fmt.Fprintf(app.ErrWriter, "fluxgate: %s\nusage: %s\n", usage.text, usageLine(app, used))
		return exitUsage
	case errors.Is(err, errFailed):
		return exitFailed
	}
	if wantsJSON(args) {
		writeProblem(app.ErrWriter, err)
		return exitFailed
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(app.ErrWriter, "fluxgate: interrupted")
		return exitFailed
	}
	fmt.Fprintf(app.ErrWriter, "fluxgate: %s\n", err)
	return exitFailed
}

// writeProblem writes an error as the API would answer it.
func writeProblem(w io.Writer, err error) {
	var e *router.Error
	if !errors.As(err, &e) { // from this machine: its text is all there is
		err = &router.Error{Code: router.CodeFailed, Message: err.Error()}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	_ = enc.Encode(api.ProblemOf(err))
}

// usageLine is how a command is called; of the app where there is none.
func usageLine(app *cli.App, c *cli.Command) string {
	if c == nil {
		return "fluxgate COMMAND; `fluxgate help` lists the commands"
	}
	return callOf(app, c)
}

// callOf is a command with its arguments.
func callOf(app *cli.App, c *cli.Command) string {
	path := commandPath(app.Commands, c)
	if c.ArgsUsage != "" {
		path = append(path, c.ArgsUsage)
	} else if len(c.Subcommands) > 0 {
		var names []string
		for _, sub := range c.Subcommands {
			names = append(names, strings.TrimSpace(sub.Name+" "+sub.ArgsUsage))
		}
		path = append(path, strings.Join(names, " | "))
	}
	return "fluxgate " + strings.Join(path, " ")
}

func commandPath(in []*cli.Command, c *cli.Command) []string {
	for _, cmd := range in {
		if cmd == c {
			return []string{c.Name}
		}
		if rest := commandPath(cmd.Subcommands, c); rest != nil {
			return append([]string{cmd.Name}, rest...)
		}
	}
	return nil
}

func didYouMean(name string, commands []*cli.Command) string {
	for _, c := range commands {
		if len(name) > 1 && (strings.HasPrefix(c.Name, name) || strings.HasPrefix(name, c.Name)) {
			return fmt.Sprintf("; did you mean %s?", c.Name)
		}
	}
	return "; `fluxgate help` lists them"
}

// arguments checks that a command got between low and high arguments.
func arguments(c *cli.Context, low, high int) ([]string, error) {
	switch n := c.NArg(); {
	case n < low:
		return nil, usagef("%s needs an argument more", c.Command.Name)
	case high >= 0 && n > high:
		return nil, usagef("%q is an argument too many", c.Args().Get(high))
	}
	return c.Args().Slice(), nil
}

// appName is an argument that names an app.
func appName(name string) (string, error) {
	if v := router.CheckAppName(name); v != nil {
		return "", router.Invalid("the app's name", []router.Violation{*v})
	}
	return name, nil
}

// isTerminal reports whether a person looks at w or types into it.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
