package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// dormant are the settings of an app that is absent soon after its last
// request.
var dormant = map[string]string{"freeze_after": "1s", "stop_after": "1s", "remove_after": "1s"}

// awake are the settings of an app that stays so after its last request.
var awake = map[string]string{"remove_after": "24h", "stop_after": "1h", "freeze_after": "10m"}

func benchHerd(ctx context.Context, b *bench) error {
	const name = "herd"
	if err := b.push(ctx, hello{policy: dormant}, name); err != nil {
		return err
	}
	if err := b.await(ctx, "absent", name); err != nil {
		return err
	}
	names := make([]string, b.herd)
	for i := range names {
		names[i] = name
	}
	since := time.Now()
	// Podman's events are cut at whole seconds.
	if err := pause(ctx, time.Until(since.Truncate(time.Second).Add(time.Second))); err != nil {
		return err
	}
	since = time.Now()
	c, err := b.storm(ctx, names)
	if err != nil {
		return err
	}
	made, err := b.podman.created(ctx, "fluxgate.app="+name, since)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d requests at once to one absent app", b.herd)
	b.report.verdict(verdict{what, fmt.Sprintf("%d answers 200, %d containers", c.ok, made), "-", fmt.Sprintf("%d and 1", b.herd), c.ok == b.herd && made == 1})
	b.report.table(c.table(what))
	return b.remove(ctx, name)
}

func benchFifty(ctx context.Context, b *bench) error {
	names := numbered("fifty", 50)
	if err := b.push(ctx, hello{policy: dormant}, names...); err != nil {
		return err
	}
	if err := b.await(ctx, "absent", names...); err != nil {
		return err
	}
	// Those that are awake first would be frozen and removed while the last still
	// start: that is not what is measured.
	if err := b.setPolicy(ctx, awake, names...); err != nil {
		return err
	}
	c, err := b.storm(ctx, names)
	if err != nil {
		return err
	}
	const what = "50 absent apps hit in the same second"
	b.report.verdict(verdict{what, fmt.Sprintf("%d answers 200", c.ok), "-", "50", c.ok == len(names)})
	b.report.table(c.table(what))
	return b.remove(ctx, names...)
}

// crowd is what many requests at once got.
type crowd struct {
	ok     int
	others map[string]int // other answers and errors, counted
	took   times          // to the end of the answer
}

// storm sends one request to each of the apps at the same moment, each on a
// connection of its own that is open before.
func (b *bench) storm(ctx context.Context, apps []string) (crowd, error) {
	conns := make([]net.Conn, len(apps))
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 30 * time.Second}}
	for i, app := range apps {
		dialer.Config = &tls.Config{RootCAs: b.gw.roots, ServerName: app + ".localhost", MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
		conn, err := dialer.DialContext(ctx, "tcp", loopback(b.gw.https))
		if err != nil {
			return crowd{}, err
		}
		conns[i] = conn
	}
	c := crowd{others: map[string]int{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for i, app := range apps {
		wg.Go(func() {
			<-gate
			start := time.Now()
			status, err := requestOn(conns[i], fmt.Sprintf("%s.localhost:%d", app, b.gw.https))
			took := time.Since(start)
			mu.Lock()
			defer mu.Unlock()
			c.took = append(c.took, took)
			switch {
			case err != nil:
				c.others[err.Error()]++
			case status != http.StatusOK:
				c.others[fmt.Sprint(status)]++
			default:
				c.ok++
			}
		})
	}
	close(gate)
	wg.Wait()
	return c, ctx.Err()
}

// requestOn makes one request on an open connection.
func requestOn(conn net.Conn, host string) (int, error) {
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func (c crowd) table(title string) table {
	rows := [][]string{
		{"answers 200", fmt.Sprint(c.ok)},
		{"answered after, p50", ms(c.took.p50())},
		{"answered after, p99", ms(c.took.p99())},
		{"answered after, last", ms(c.took.max())},
	}
	for what, count := range c.others {
		rows = append(rows, []string{what, fmt.Sprint(count)})
	}
	return table{title: title, note: "The connections are open before; all requests are sent at the same moment.", head: []string{"", ""}, rows: rows}
}
