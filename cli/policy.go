package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

func policyCommand() *cli.Command {
	return &cli.Command{
		Name: "policy", Usage: "show or change how an app scales and sleeps, or try it first", ArgsUsage: "APP [set KEY=VALUE… | history | rehearse … | recommend …]",
		Description: "The app may stand before or after the verb.",
		Flags:       []cli.Flag{jsonFlag()},
		Subcommands: []*cli.Command{policySetCommand(), policyHistoryCommand(), rehearseCommand(), recommendCommand()},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 1, 2)
			if err != nil {
				return err
			}
			app, err := appName(args[0])
			if err != nil {
				return err
			}
			if len(args) == 2 {
				return usagef("policy has no %q; there is set, history, rehearse and recommend", args[1])
			}
			client, err := connect(c)
			if err != nil {
				return err
			}
			defer client.Close()
			list, err := client.Policy(c.Context, app)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return emit(c, list, nil)
			}
			last, err := client.PolicyHistory(c.Context, app, 1)
			if err != nil {
				return err
			}
			rows := [][]string{{"KEY", "VALUE", "DEFAULT", "MEANING"}}
			for _, s := range list {
				rows = append(rows, []string{s.Key, orNone(s.Value), orNone(s.Default), s.Doc})
			}
			table(c.App.Writer, rows)
			if len(last) > 0 {
				fmt.Fprintf(c.App.Writer, "\nchanged %s by %s: %s; `fluxgate policy %s history` shows all changes\n", ago(c, last[0].At), cell(last[0].By), diffs(last[0].Changes), app)
			}
			return nil
		},
	}
}

func policySetCommand() *cli.Command {
	return &cli.Command{
		Name: "set", Usage: "change how an app scales and sleeps, at once; all settings or none", ArgsUsage: "APP KEY=VALUE…",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 1, -1)
			if err != nil {
				return err
			}
			app, err := appName(args[0])
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return usagef("set needs an argument more")
			}
			set, err := keyValues(args[1:])
			if err != nil {
				return err
			}
			client, err := connect(c)
			if err != nil {
				return err
			}
			defer client.Close()
			list, err := client.SetPolicy(c.Context, app, set)
			if err != nil {
				return err
			}
			return emit(c, list, func(w io.Writer) {
				rows := [][]string{{"KEY", "WAS", "IS", "DEFAULT"}}
				for _, s := range list {
					if s.Previous != nil {
						rows = append(rows, []string{s.Key, orNone(*s.Previous), orNone(s.Value), orNone(s.Default)})
					}
				}
				if len(rows) == 1 {
					fmt.Fprintln(w, "nothing changed: the policy was so already")
					return
				}
				table(w, rows)
			})
		},
	}
}

func policyHistoryCommand() *cli.Command {
	return &cli.Command{
		Name: "history", Usage: "show who changed an app's policy when; the last 100 changes, newest first", ArgsUsage: "APP",
		Flags: []cli.Flag{jsonFlag()},
		Action: onApp(func(c *cli.Context, client *api.Client, app string) ([]router.PolicyEdit, error) {
			return client.PolicyHistory(c.Context, app, 100)
		}, func(c *cli.Context, w io.Writer, list []router.PolicyEdit) {
			if len(list) == 0 {
				fmt.Fprintln(w, "nobody changed it yet")
				return
			}
			rows := [][]string{{"TIME", "WHEN", "BY", "CHANGES"}}
			for _, e := range list {
				rows = append(rows, []string{e.At.Local().Format("2006-01-02 15:04:05"), ago(c, e.At), cell(e.By), diffs(e.Changes)})
			}
			table(w, rows)
		}),
	}
}

// diffs are changes in a line.
func diffs(list []router.FieldChange) string {
	texts := make([]string, len(list))
	for i, f := range list {
		texts[i] = fmt.Sprintf("%s %s -> %s", clean(f.Key), clean(orNone(f.From)), clean(orNone(f.To)))
	}
	return strings.Join(texts, ", ")
}

// orNone shows that a value is empty.
func orNone(s string) string {
	if s == "" {
		return `""`
	}
	return s
}

func keyValues(pairs []string) (map[string]string, error) {
	m := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usagef("%q is not KEY=VALUE", pair)
		}
		if _, twice := m[key]; twice {
			return nil, usagef("%s is given twice", key)
		}
		m[key] = value
	}
	return m, nil
}
