package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

func nodeCommand() *cli.Command {
	return &cli.Command{
		Name: "node", Usage: "add, list, drain and remove the machines that run apps",
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef("node has no %q", c.Args().First())
			}
			return usagef("say what to do with nodes")
		},
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "add a machine, after running a container there", ArgsUsage: "URL",
				Description: "URL is ssh://user@host[:port][/socket], or, for networks that are trusted, tcp://host:port or unix:///socket.\n" +
					"The SSH host key is shown and pinned. The gateway logs in with the key of `up --ssh-key`, its agent, or its user's.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "name", Usage: "`NAME` of the node; made from the URL if not given"},
					&cli.StringFlag{Name: "address", Usage: "`IP` at which gateways reach its containers' ports", DefaultText: "the URL's host"},
					&cli.BoolFlag{Name: "tunnel", Usage: "let requests travel through the SSH connection: no port of the node is opened"},
					&cli.StringSliceFlag{Name: "label", Usage: "`KEY=VALUE` for placement, such as zone=rack1; may be given several times"},
					&cli.StringFlag{Name: "host-key", Usage: "`FINGERPRINT` (SHA256:…) that the machine must show; without it, it is shown and asked about"},
					jsonFlag(),
				},
				Action: nodeAdd,
			},
			{
				Name: "ls", Usage: "list the nodes", Flags: []cli.Flag{jsonFlag()},
				Action: func(c *cli.Context) error {
					if _, err := arguments(c, 0, 0); err != nil {
						return err
					}
					client, err := connect(c)
					if err != nil {
						return err
					}
					defer client.Close()
					list, err := client.Nodes(c.Context)
					if err != nil {
						return err
					}
					return emit(c, list, func(w io.Writer) { nodeTable(w, list) })
				},
			},
			{
				Name: "drain", Usage: "move everything to other nodes, and take nothing new", ArgsUsage: "NAME",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "undo", Usage: "let the node take instances again"},
					&cli.DurationFlag{Name: "timeout", Usage: "give up waiting after this `TIME`; the node stays as it is", Value: 10 * time.Minute},
					jsonFlag(),
				},
				Action: nodeDrain,
			},
			{
				Name: "rm", Usage: "forget a node that has been drained", ArgsUsage: "NAME",
				Flags: []cli.Flag{&cli.BoolFlag{Name: "force", Usage: "even if it has instances, as when it is gone for good"}, jsonFlag()},
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
					if err := client.RemoveNode(c.Context, args[0], c.Bool("force")); err != nil {
						return err
					}
					return emit(c, removed{args[0]}, func(w io.Writer) { fmt.Fprintf(w, "node %s is removed\n", clean(args[0])) })
				},
			},
		},
	}
}

func nodeAdd(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	labels, err := parseLabels(c.StringSlice("label"))
	if err != nil {
		return err
	}
	add := api.AddNode{Name: c.String("name"), URL: args[0], Address: c.String("address"), Tunnel: c.Bool("tunnel"), Labels: labels}
	if bad := api.CheckNode(add); len(bad) > 0 {
		return router.Invalid("the node", bad)
	}
	client, err := connect(c)
	if err != nil {
		return err
	}
	defer client.Close()
	if strings.HasPrefix(add.URL, "ssh://") {
		if add.HostKey, err = pinHostKey(c, client, add.URL); err != nil {
			return err
		}
	}
	node, err := client.AddNode(c.Context, add)
	if err != nil {
		return err
	}
	return emit(c, node, func(w io.Writer) {
		fmt.Fprintf(w, "node %s is added: Podman %s, %s, %d cores, %.1f GB of memory\n", clean(node.Name), clean(node.Podman), clean(node.Runtime), node.CPUs, float64(node.Memory)/(1<<30))
		for _, d := range node.Diagnosis {
			fmt.Fprintf(w, "  %s\n", clean(d))
		}
	})
}

// pinHostKey is the key that the machine shows, when it is the one expected or
// the user says that it is right.
func pinHostKey(c *cli.Context, client *api.Client, url string) (string, error) {
	key, err := client.HostKey(c.Context, url)
	if err != nil {
		return "", err
	}
	if want := c.String("host-key"); want != "" {
		if want != key.Fingerprint && want != key.Key {
			return "", router.Errorf(router.CodeConflict, "the machine shows the host key %s, not %s: it is another machine, or somebody is in between", key.Fingerprint, clean(want))
		}
		return key.Key, nil
	}
	fmt.Fprintf(c.App.ErrWriter, "The machine shows the host key %s\nCompare it with what `ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` prints there.\n", key.Fingerprint)
	if in, ok := c.App.Reader.(*os.File); !ok || !term.IsTerminal(int(in.Fd())) {
		return "", usagef("pass --host-key %s to pin it", key.Fingerprint)
	}
	fmt.Fprint(c.App.ErrWriter, "Pin it? [y/N] ")
	answer, _ := bufio.NewReader(c.App.Reader).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return "", router.Errorf(router.CodeConflict, "the host key was not pinned, and the node is not added")
	}
	return key.Key, nil
}

func parseLabels(list []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, l := range list {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			return nil, usagef("--label %q is not KEY=VALUE", l)
		}
		labels[k] = v
	}
	return labels, nil
}

func nodeTable(w io.Writer, list []api.Node) {
	rows := [][]string{{"NAME", "HEALTH", "CPUS", "MEMORY", "RESERVED", "INSTANCES", "LATENCY", "LABELS", "URL"}}
	for _, n := range list {
		health := n.Health
		if n.Cordoned {
			health += ", draining"
			if total(n) == 0 {
				health = n.Health + ", drained"
			}
		}
		latency := ""
		if n.LatencyMS > 0 {
			latency = fmt.Sprintf("%.1f ms", n.LatencyMS)
		}
		rows = append(rows, []string{
			cell(n.Name), health, fmt.Sprint(n.CPUs), gb(n.Memory), gb(n.Reserved), instanceText(n), latency, cell(labelList(n.Labels)), cell(n.URL),
		})
	}
	table(w, rows)
}

func gb(bytes int64) string { return fmt.Sprintf("%.1f GB", float64(bytes)/(1<<30)) }

func total(n api.Node) (sum int) {
	for _, v := range n.Instances {
		sum += v
	}
	return sum
}

func instanceText(n api.Node) string {
	var parts []string
	for state, count := range n.Instances {
		parts = append(parts, fmt.Sprintf("%d %s", count, state))
	}
	sort.Strings(parts)
	return orElse(strings.Join(parts, ", "), "none")
}

func labelList(labels map[string]string) string {
	var parts []string
	for k, v := range labels {
		parts = append(parts, k+"="+v)
	}
	sort.Strings(parts)
	return strings.Join(parts, ",")
}

func nodeDrain(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	client, err := connect(c)
	if err != nil {
		return err
	}
	defer client.Close()
	node, err := client.CordonNode(c.Context, args[0], !c.Bool("undo"))
	if err != nil {
		return err
	}
	if c.Bool("undo") {
		return emit(c, node, func(w io.Writer) { fmt.Fprintf(w, "node %s takes instances again\n", clean(node.Name)) })
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	said := ""
	for total(node) > 0 {
		if text := instanceText(node); text != said {
			fmt.Fprintf(c.App.ErrWriter, "%s: %s\n", clean(node.Name), text)
			said = text
		}
		select {
		case <-ctx.Done():
			return router.Errorf(router.CodeUnavailable, "node %s still has instances (%s); they go on moving, and `fluxgate node ls` shows how far it is", node.Name, instanceText(node))
		case <-time.After(500 * time.Millisecond):
		}
		list, err := client.Nodes(ctx)
		if err != nil {
			return err
		}
		for _, n := range list {
			if n.Name == node.Name {
				node = n
			}
		}
	}
	return emit(c, node, func(w io.Writer) {
		fmt.Fprintf(w, "node %s is drained: nothing is there any more, and nothing new comes\n", clean(node.Name))
	})
}

// resolve is the first address of a host.
func resolve(ctx context.Context, host string) (string, error) {
	ips, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil || len(ips) == 0 {
		return "", router.Errorf(router.CodeUnavailable, "the host %s has no address here: check the name, or pass --address", host)
	}
	return ips[0], nil
}
