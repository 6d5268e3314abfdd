package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// benchTravel adds hostnames at one gateway and asks the other for them, again
// and again, until it knows them.
func benchTravel(ctx context.Context, f *fleetRun) error {
	from, to := f.gateways[0], f.gateways[1]
	token, err := from.token()
	if err != nil {
		return err
	}
	api := aimAt(from, loopback(from.https), false)
	var whole, after times
	for i := range 200 {
		name := fmt.Sprintf("travel%d.test", i)
		known := make(chan time.Time, 1)
		lctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		go func() { known <- awaitHost(lctx, to, name) }()
		began := time.Now()
		req, err := http.NewRequestWithContext(lctx, http.MethodPost, api.url("fluxgate")+"v1/apps/hello/domains", strings.NewReader(`{"host":"`+name+`"}`))
		if err != nil {
			cancel()
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := api.client.Do(req)
		if err != nil {
			cancel()
			return err
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		answered := time.Now()
		if resp.StatusCode >= 300 {
			cancel()
			return fmt.Errorf("adding %s: %s %s", name, resp.Status, text)
		}
		at := <-known
		cancel()
		if at.IsZero() {
			return fmt.Errorf("%s never reached the other gateway", name)
		}
		whole = append(whole, at.Sub(began))
		after = append(after, max(0, at.Sub(answered)))
	}
	const allowed = 50 * time.Millisecond
	f.report.verdict(verdict{"a change from one gateway's API to another's routing, p99", ms(whole.p99()), "-", "50 ms", whole.p99() < allowed})
	f.report.table(table{
		"Change travel", "200 hostnames added at one gateway; the other is asked for each until it knows it. The first row begins with the request to the API, the second with its answer.",
		[]string{"", "p50", "p99", "max"},
		[][]string{{"from the request", ms(whole.p50()), ms(whole.p99()), ms(whole.max())}, {"from the answer", ms(after.p50()), ms(after.p99()), ms(after.max())}},
	})
	return nil
}

// awaitHost asks a gateway for a hostname until it is known, over plain HTTP.
func awaitHost(ctx context.Context, g *gateway, host string) time.Time {
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(g.http)+"/", nil)
		if err != nil {
			return time.Time{}
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			return time.Now()
		}
	}
	return time.Time{}
}
