package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the times in /proc/PID/stat: USER_HZ, which is 100 on
// every Linux that Go runs on.
const tick = 10 * time.Millisecond

// cpuTime is what a process used until now, user and system, without its
// children.
func cpuTime(pid int) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	// proc(5): utime is field 14 and stime 15; fields starts at field 3.
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick, err
}

// stat is /proc/PID/stat from the state (field 3) on; the name before it may
// hold anything.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat is short", pid)
	}
	return fields, nil
}

// family is a process and its children's children, which come and go: those
// that are there now.
func family(pid int) []int {
	children := map[int][]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		child, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if fields, err := stat(child); err == nil {
			parent, _ := strconv.Atoi(fields[1])
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// familyCPU sums cpuTime over a process and its descendants.
func familyCPU(pid int) time.Duration {
	var sum time.Duration
	for _, p := range family(pid) {
		used, _ := cpuTime(p) // gone since: its time is lost, as it would be to top
		sum += used
	}
	return sum
}

// spentCPU sums what a process, its descendants, and those of them that have
// ended and were waited for used until now.
func spentCPU(pid int) time.Duration {
	var sum time.Duration
	for _, p := range family(pid) {
		fields, err := stat(p)
		if err != nil {
			continue
		}
		for _, f := range fields[11:15] { // proc(5): utime, stime, cutime, cstime
			n, _ := strconv.ParseInt(f, 10, 64)
			sum += time.Duration(n) * tick
		}
	}
	return sum
}

// memory is how much of the machine's memory a process has, in bytes.
func memory(pid int) (int64, error) {
	return kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmRSS")
}

// memoryPeak is the most that it ever had.
func memoryPeak(pid int) (int64, error) {
	return kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmHWM")
}

// memoryOfMachine is a figure of proc(5), meminfo, in bytes: MemTotal, MemAvailable, ….
func memoryOfMachine(figure string) (int64, error) { return kilobytes("/proc/meminfo", figure) }

// kilobytes reads a figure, in bytes, out of a file that says it in kB.
func kilobytes(path, figure string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, figure+":"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, figure)
}

// machineCPU is the time that the machine's cores were busy until now, and
// waited for by a hypervisor.
func machineCPU() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), "\n")
	var sum time.Duration
	for i, field := range strings.Fields(first) {
		// proc(5): user nice system idle iowait irq softirq steal guest guest_nice; guests are in user.
		if n, err := strconv.ParseInt(field, 10, 64); err == nil && i < 9 && i != 4 && i != 5 {
			sum += time.Duration(n) * tick
		}
	}
	return sum
}
