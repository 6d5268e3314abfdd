package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proxied is the app behind the proxies, and answerLength how long its answer is:
// greeting, " from ", its hostname, newline.
const (
	proxied      = "proxied"
	answerLength = 62
)

// peer is a proxy to compare with: its configuration for one upstream.
type peer struct {
	name   string
	config string // %[1]d is the port to listen on, %[2]s the upstream's address, %[3]d the cores
	args   func(config string) []string
}

// peers are all proxies that are measured where they are installed; HAProxy is
// the one that the promise is about.
var peers = []peer{
	{"haproxy", `global
    nbthread %[3]d
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 60s
frontend edge
    bind 127.0.0.1:%[1]d
    default_backend app
backend app
    server app %[2]s
`, func(config string) []string { return []string{"-db", "-q", "-f", config} }},
	{"nginx", `daemon off;
worker_processes %[3]d;
error_log stderr error;
pid nginx.pid;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path tmp;
    proxy_temp_path tmp;
    fastcgi_temp_path tmp;
    uwsgi_temp_path tmp;
    scgi_temp_path tmp;
    keepalive_requests 100000000;
    upstream app { server %[2]s; keepalive 128; keepalive_requests 100000000; }
    server {
        listen 127.0.0.1:%[1]d;
        location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; }
    }
}
`, func(config string) []string { return []string{"-p", filepath.Dir(config), "-c", config} }},
	{"caddy", `{
    admin off
    auto_https off
}
http://:%[1]d {
    bind 127.0.0.1
    reverse_proxy %[2]s
}
`, func(config string) []string { return []string{"run", "--adapter", "caddyfile", "--config", config} }},
}

// rounds is how often each proxy is loaded; they take turns.
const rounds = 3

// load is what one proxy did over all rounds.
type load struct {
	name     string
	port     int
	cpu      func() time.Duration
	perReq   []float64 // microseconds of CPU
	perSec   []float64 // requests a second
	children []float64 // microseconds of CPU of the gateway's own children (Redis, Podman)
}

func benchProxy(ctx context.Context, b *bench) (err error) {
	greeting := strings.Repeat("x", answerLength-len(" from "+proxied+"\n"))
	app := hello{greeting: greeting, cpu: float64(runtime.NumCPU()), policy: map[string]string{"min": "1", "max": "1"}}
	if err := b.push(ctx, app, proxied); err != nil {
		return err
	}
	list, err := b.instances(ctx, proxied)
	if err != nil {
		return err
	}
	if len(list) != 1 || list[0].Address == "" {
		return fmt.Errorf("%s has not exactly one instance with an address: %+v", proxied, list)
	}
	c := b.gw.client(proxied)
	defer c.close()
	a, err := c.get(ctx)
	if err != nil {
		return err
	}
	if len(a.body) != answerLength {
		return fmt.Errorf("the answer is not %d bytes long: %q", answerLength, a.body)
	}
	gwCPU := func() time.Duration { used, _ := cpuTime(b.gw.pid()); return used }
	loads := []*load{{name: "fluxgate", port: b.gw.http, cpu: gwCPU}}
	for _, p := range peers {
		l, stop, err := b.startPeer(ctx, p, list[0].Address)
		if errors.Is(err, exec.ErrNotFound) {
			b.say("%s is not installed: left out", p.name)
			continue
		}
		if err != nil {
			return err
		}
		defer stop()
		loads = append(loads, l)
	}
	for range rounds {
		for _, l := range loads {
			children := familyCPU(b.gw.pid()) - gwCPU()
			before := l.cpu()
			count, took, err := b.wrk(ctx, l.port, proxied+".localhost")
			if err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
			l.perReq = append(l.perReq, float64((l.cpu()-before).Microseconds())/float64(count))
			l.perSec = append(l.perSec, float64(count)/took.Seconds())
			children = familyCPU(b.gw.pid()) - gwCPU() - children
			l.children = append(l.children, float64(children.Microseconds())/float64(count))
		}
	}
	b.reportProxies(loads)
	return b.remove(ctx, proxied)
}

func (b *bench) reportProxies(loads []*load) {
	t := table{
		title: "CPU time per proxied request",
		note: fmt.Sprintf("wrk, 64 keep-alive connections, plain HTTP, %d-byte answer of the same container; medians of %d loads of %s each, the proxies taking turns.",
			answerLength, rounds, b.seconds),
		head: []string{"proxy", "CPU us/request", "requests/s"},
	}
	for _, l := range loads {
		t.rows = append(t.rows, []string{l.name, fmt.Sprintf("%.1f", median(l.perReq)), fmt.Sprintf("%.0f", median(l.perSec))})
	}
	us := loads[0]
	t.rows = append(t.rows, []string{"(fluxgate's Redis and Podman processes, beside it)", fmt.Sprintf("%.1f", median(us.children)), ""})
	b.report.table(t)
	for _, l := range loads {
		if l.name != "haproxy" {
			continue
		}
		allowed := 1.25 * median(l.perReq)
		b.report.verdict(verdict{
			"CPU time per proxied plain-HTTP request", fmt.Sprintf("%.1f us", median(us.perReq)),
			fmt.Sprintf("%.1f us (HAProxy)", median(l.perReq)), fmt.Sprintf("%.1f us (x 1.25)", allowed), median(us.perReq) <= allowed,
		})
	}
}

// startPeer runs a proxy before the upstream until stop.
func (b *bench) startPeer(ctx context.Context, p peer, upstream string) (l *load, stop func(), err error) {
	path, err := exec.LookPath(p.name)
	if err != nil {
		return nil, nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, nil, err
	}
	dir := filepath.Join(b.dir, p.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	config := filepath.Join(dir, p.name+".conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, p.config, port, upstream, runtime.NumCPU()), 0o600); err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(path, p.args(config)...)
	cmd.Dir = dir
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(err, log.Close())
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		log.Close()
	}
	if err := listening(ctx, port); err != nil {
		stop()
		return nil, nil, fmt.Errorf("%s: %w\n%s", p.name, err, tail(filepath.Join(dir, "log")))
	}
	pid := cmd.Process.Pid
	return &load{name: p.name, port: port, cpu: func() time.Duration { return familyCPU(pid) }}, stop, nil
}

var (
	wrkRequests = regexp.MustCompile(`(\d+) requests in ([0-9.]+)(m?s|m)`)
	wrkErrors   = regexp.MustCompile(`(?m)^\s*(Non-2xx|Socket errors).*$`)
)

// wrk loads a proxy and counts what was answered; any answer but 2xx is an
// error.
func (b *bench) wrk(ctx context.Context, port int, host string) (int, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, b.seconds+time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "wrk", "-t2", "-c64", "-d"+b.seconds.String(), "-H", "Host: "+host, "http://"+loopback(port)+"/").CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	if bad := wrkErrors.Find(out); bad != nil {
		return 0, 0, fmt.Errorf("wrk: %s", bad)
	}
	m := wrkRequests.FindSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("wrk's output is not understood: %s", out)
	}
	count, err := strconv.Atoi(string(m[1]))
	if err != nil || count == 0 {
		return 0, 0, fmt.Errorf("wrk made no request: %s", out)
	}
	took, err := time.ParseDuration(string(m[2]) + string(m[3]))
	return count, took, err
}
