package cli

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// arrange brings args into the only order that urfave/cli understands: the
// global flags, the command, its flags, and the arguments after "--". So flags
// may come anywhere (`fluxgate logs hello -f`), and an argument is never taken
// for a command or a flag. It also tells which command it found; nil where none.
//
// A flag without its value is an error; what else is wrong with the flags is
// left for urfave/cli to say.
func arrange(app *cli.App, args []string) ([]string, *cli.Command, error) {
	if len(args) < 2 {
		return args, nil, nil
	}
	if args[1] == "help" { // `fluxgate help push` is `fluxgate push --help`
		args = append([]string{args[0]}, append(slices.Clone(args[2:]), "--help")...)
	}
	type level struct {
		name  string
		flags []cli.Flag
		given []string
	}
	levels := []*level{{flags: app.Flags}}
	commands := app.Commands
	var cmd *cli.Command
	var positional []string

	rest := args[1:]
	for len(rest) > 0 {
		arg := rest[0]
		rest = rest[1:]
		if arg == "--" {
			positional = append(positional, rest...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			// Of a command that itself takes an argument, that may come before the
			// verb: `policy APP set`.
			first := len(positional) == 0 || len(positional) == 1 && cmd != nil && cmd.ArgsUsage != ""
			if sub := findCommand(commands, arg); sub != nil && first {
				cmd, commands = sub, sub.Subcommands
				levels = append(levels, &level{name: arg, flags: sub.Flags})
			} else {
				positional = append(positional, arg)
			}
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		at := levels[len(levels)-1]
		flag := findFlag(at.flags, name)
		for i := len(levels) - 2; flag == nil && i >= 0; i-- {
			if f := findFlag(levels[i].flags, name); f != nil {
				flag, at = f, levels[i]
			}
		}
		if flag == nil && !strings.HasPrefix(arg, "--") && !hasValue { // -fn 20 is -f -n 20
			flag = findFlag(at.flags, name[len(name)-1:])
		}
		at.given = append(at.given, arg)
		if flag != nil && !hasValue && takesValue(flag) {
			if len(rest) == 0 {
				return args, cmd, usagef("%s needs a value", arg)
			}
			at.given = append(at.given, rest[0])
			rest = rest[1:]
		}
	}

	out := []string{args[0]}
	for _, l := range levels {
		if l.name != "" {
			out = append(out, l.name)
		}
		out = append(out, l.given...)
	}
	if len(positional) > 0 {
		out = append(append(out, "--"), positional...)
	}
	return out, cmd, nil
}

func findCommand(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	_, isBool := f.(*cli.BoolFlag)
	return !isBool
}

// wantsJSON reports whether arranged args ask for JSON.
func wantsJSON(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "--":
			return false
		case "--json", "-json", "--json=true", "-json=true":
			return true
		}
	}
	return false
}
