package main

import (
	"fmt"
	"time"
)

func scaleReport(r *report, all []scaleFigures) {
	t := table{title: "How figures grow", head: []string{""}}
	for _, f := range all {
		t.head = append(t.head, fmt.Sprintf("%d nodes, %d apps", f.extent.nodes, f.extent.apps))
	}
	row := func(what string, cell func(scaleFigures) string) {
		cells := []string{what}
		for _, f := range all {
			cells = append(cells, cell(f))
		}
		t.rows = append(t.rows, cells)
	}
	row("gateways; apps with a request a second", func(f scaleFigures) string { return fmt.Sprintf("%d; %d", f.extent.gateways, f.extent.active) })
	row("adding a node, with its check", func(f scaleFigures) string { return ms(f.add) })
	row("`fluxgate restore` of all", func(f scaleFigures) string { return short(f.restore) })
	row("a gateway's start, all read, to ready: first, last", func(f scaleFigures) string { return short(f.starts[0]) + ", " + short(f.starts[len(f.starts)-1]) })
	row("a gateway's start: its memory at the highest", func(f scaleFigures) string { return megabytes(f.peak) })
	row("all asleep: memory of a gateway, most", func(f scaleFigures) string { return megabytes(most(f.idle).memory) })
	row("all asleep: CPU of a gateway, the one that decides", func(f scaleFigures) string {
		return percent(others(f.idle, f.leader)) + ", " + percent(f.idle[f.leader].cpu)
	})
	row("all asleep: Redis", func(f scaleFigures) string { return percent(f.redisIdle.cpu) + ", " + megabytes(f.redisIdle.memory) })
	row("waking the active ones, 32 at a time: all, p50, p99", func(f scaleFigures) string {
		return short(f.allAwake) + ", " + ms(f.wakes.p50()) + ", " + ms(f.wakes.p99())
	})
	row("under load: memory of a gateway, most", func(f scaleFigures) string { return megabytes(most(f.busy).memory) })
	row("under load: CPU of a gateway, the one that decides", func(f scaleFigures) string {
		return percent(others(f.busy, f.leader)) + ", " + percent(f.busy[f.leader].cpu)
	})
	row("under load: Redis", func(f scaleFigures) string { return percent(f.redisBusy.cpu) + ", " + megabytes(f.redisBusy.memory) })
	row("under load: failed requests", func(f scaleFigures) string { return fmt.Sprintf("%d of %d", f.failed, f.sent) })
	row("a tick", func(f scaleFigures) string { return f.tick.text })
	row("change travel, p50, p99", func(f scaleFigures) string { return ms(f.travel.p50()) + ", " + ms(f.travel.p99()) })
	row("all known again after the stream was trimmed", func(f scaleFigures) string { return short(f.resync) })
	row("`fluxgate apps`; `fluxgate node ls`", func(f scaleFigures) string { return short(f.apps) + "; " + short(f.nodes) })
	row(fmt.Sprintf("a rack of %d nodes lost: instances there", rackSize), func(f scaleFigures) string { return fmt.Sprint(f.rack.instances) })
	row("a rack lost: out of the records; replaced", func(f scaleFigures) string { return short(f.rack.gone) + "; " + short(f.rack.replaced) })
	row("a rack lost: failed requests; of these begun later than 2 s after", func(f scaleFigures) string {
		return fmt.Sprintf("%d of %d; %d", f.rack.failed, f.rack.sent, f.rack.failedLater)
	})
	row("a rack lost: a gateway's start meanwhile", func(f scaleFigures) string { return short(f.rack.restart) })
	row("the rack is back: all its nodes are used; containers left over", func(f scaleFigures) string { return short(f.rack.back) + "; " + fmt.Sprint(f.rack.leftovers) })
	row("files open in a gateway, most", func(f scaleFigures) string { return fmt.Sprint(f.files) })
	row("beside it all: other programs of the machine used", func(f scaleFigures) string { return fmt.Sprintf("%.2f cores", f.others) })
	r.table(t)
	for _, f := range all {
		name := fmt.Sprintf("%d nodes: ", f.extent.nodes)
		r.verdict(verdict{name + "a change from one gateway to another, p99", ms(f.travel.p99()), "-", "50 ms", f.travel.p99() < 50*time.Millisecond})
		r.verdict(verdict{name + "a rack lost: out of the records after", short(f.rack.gone), "-", "2 s", f.rack.gone < 2*time.Second})
		r.verdict(verdict{name + "a rack lost: replaced after", short(f.rack.replaced), "-", "5 s + start", f.rack.replaced < 5*time.Second})
	}
}

func short(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// most is the use of the gateway that has the most memory.
func most(list []use) (m use) {
	for _, u := range list {
		if u.memory > m.memory {
			m = u
		}
	}
	return m
}

// others is what gateways use that do not decide, on average.
func others(list []use, leader int) float64 {
	sum, n := 0.0, 0
	for i, u := range list {
		if i != leader || len(list) == 1 {
			sum += u.cpu
			n++
		}
	}
	return sum / float64(n)
}
