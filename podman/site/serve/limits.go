package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
)

// limits is what a node check reads back: what the kernel enforces on this
// process, -1 where there is no limit and absent where it cannot be seen.
type limits struct {
	Nonce  string   `json:"nonce"` // $NONCE: tells this probe from whatever else answers at its address
	Memory *float64 `json:"memory,omitempty"`
	CPU    *float64 `json:"cpu,omitempty"` // cores
	Pids   *float64 `json:"pids,omitempty"`
	Used   *float64 `json:"used,omitempty"` // bytes of memory, page cache included
}

// fillSize is how much page cache a request for /fill makes.
const fillSize = 8 << 20

// fill writes a file: what the kernel keeps of it in memory can be taken back.
func fill() error {
	f, err := os.CreateTemp("/", "fill")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, fillSize))
	return errors.Join(err, f.Sync(), f.Close())
}

func limitsHandler(root fs.FS, fill func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fill" {
			if err := fill(); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(readLimits(root, os.Getenv("NONCE")))
	}
}

// readLimits looks where a container sees its own cgroup: version 2 first, then
// version 1's folder per controller.
func readLimits(root fs.FS, nonce string) limits {
	const dir = "sys/fs/cgroup/"
	return limits{
		Nonce:  nonce,
		Memory: first(root, number, dir+"memory.max", dir+"memory/memory.limit_in_bytes"),
		CPU:    cores(root, dir),
		Pids:   first(root, number, dir+"pids.max", dir+"pids/pids.max"),
		Used:   first(root, number, dir+"memory.current", dir+"memory/memory.usage_in_bytes"),
	}
}

func cores(root fs.FS, dir string) *float64 {
	if v := first(root, quotaOfPeriod, dir+"cpu.max"); v != nil {
		return v
	}
	quota := first(root, number, dir+"cpu/cpu.cfs_quota_us", dir+"cpu,cpuacct/cpu.cfs_quota_us")
	period := first(root, number, dir+"cpu/cpu.cfs_period_us", dir+"cpu,cpuacct/cpu.cfs_period_us")
	if quota == nil || period == nil || *quota < 0 || *period <= 0 {
		return quota
	}
	v := *quota / *period
	return &v
}

func first(root fs.FS, parse func(string) (float64, bool), names ...string) *float64 {
	for _, name := range names {
		b, err := fs.ReadFile(root, name)
		if err != nil {
			continue
		}
		if v, ok := parse(strings.TrimSpace(string(b))); ok {
			return &v
		}
	}
	return nil
}

func number(s string) (float64, bool) {
	if s == "max" {
		return -1, true
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil
}

// quotaOfPeriod reads cpu.max: "50000 100000" is half a core.
func quotaOfPeriod(s string) (float64, bool) {
	q, p, _ := strings.Cut(s, " ")
	quota, ok := number(q)
	period, ok2 := number(p)
	if !ok || !ok2 || period <= 0 {
		return 0, false
	}
	if quota < 0 {
		return -1, true
	}
	return quota / period, true
}
