package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "check everything that the gateway stands on; without a gateway, whether this machine can run one",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c, 0, 0); err != nil {
				return err
			}
			report, err := askDoctor(c)
			if code := router.CodeOf(err); err != nil && c.String("context") == "" && (code == router.CodeNotFound || code == router.CodeUnavailable) {
				report, err = examineMachine(c.Context, c.String("data"), err), nil
			}
			if err != nil {
				return err
			}
			err = emit(c, report, func(w io.Writer) { writeReport(w, report) })
			if err == nil && !report.OK {
				return errFailed
			}
			return err
		},
	}
}

func writeReport(w io.Writer, report api.Report) {
	rows := [][]string{{"CHECK", "STATUS", "DETAIL"}}
	for _, k := range report.Checks {
		rows = append(rows, []string{clean(k.Name), string(k.Status), clean(k.Detail)})
		if k.Remedy != "" {
			rows = append(rows, []string{"", "", "what to do: " + clean(k.Remedy)})
		}
	}
	table(w, rows)
}

// askDoctor asks the gateway of the chosen context.
func askDoctor(c *cli.Context) (api.Report, error) {
	client, err := connect(c)
	if err != nil {
		return api.Report{}, err
	}
	defer client.Close()
	return client.Doctor(c.Context)
}

// program is one that a gateway needs; any of its names will do.
type program struct {
	what   string
	names  []string
	remedy string
}

var programs = []program{
	{"podman", []string{"podman"}, "install podman, 4.3 or later"},
	{"OCI runtime", []string{"crun", "runc"}, "install crun or runc"},
	{"Redis", []string{"redis-server", "valkey-server"}, "install redis-server or valkey-server, or name one elsewhere with `fluxgate up --redis URL`"},
}

// examineMachine looks whether a gateway could run here. Nothing is changed.
func examineMachine(ctx context.Context, data string, why error) api.Report {
	report := api.Report{Checks: []api.Check{{
		Name: "gateway", Status: api.CheckFailed, Detail: why.Error(), Remedy: "start one with `fluxgate up`; what that needs is checked below",
	}}}
	for _, p := range programs {
		report.Checks = append(report.Checks, p.check(ctx))
	}
	report.Checks = append(report.Checks, examineFolder(data))
	return report
}

func (p program) check(ctx context.Context) api.Check {
	for _, name := range p.names {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		vctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		out, err := exec.CommandContext(vctx, path, "--version").Output()
		cancel()
		if err != nil {
			return api.Check{Name: p.what, Status: api.CheckFailed, Detail: fmt.Sprintf("%s does not run: %v", path, err), Remedy: p.remedy}
		}
		version, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return api.Check{Name: p.what, Status: api.CheckOK, Detail: version}
	}
	return api.Check{Name: p.what, Status: api.CheckFailed, Detail: strings.Join(p.names, " and ") + " are not installed", Remedy: p.remedy}
}

func examineFolder(data string) api.Check {
	info, err := os.Stat(data)
	switch {
	case os.IsNotExist(err):
		return api.Check{Name: "data", Status: api.CheckOK, Detail: data + " will be made"}
	case err != nil:
		return api.Check{Name: "data", Status: api.CheckFailed, Detail: dataDirError(data, err).Error(), Remedy: "choose another folder with --data"}
	case !info.IsDir():
		return api.Check{Name: "data", Status: api.CheckFailed, Detail: data + " is not a folder", Remedy: "choose another one with --data"}
	}
	return api.Check{Name: "data", Status: api.CheckOK, Detail: data}
}
