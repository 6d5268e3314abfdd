package podman

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// logLimit is where a service's log starts over.
const logLimit = 10 << 20

// process is a program that may outlive us, or have outlived who started it.
type process struct {
	pid   int
	ended chan struct{}
}

// startProcess starts a program in a process group of its own, so that ^C on
// our terminal is not its end, with its output appended to a file: a pipe
// would break with us, and the program with it.
func startProcess(program string, args []string, logFile string) (*process, error) {
	flags := os.O_CREATE | os.O_APPEND | os.O_WRONLY
	if info, err := os.Stat(logFile); err == nil && info.Size() > logLimit {
		flags |= os.O_TRUNC
	}
	out, err := os.OpenFile(logFile, flags, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{pid: cmd.Process.Pid, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.ended)
	}()
	return p, nil
}

// findProcess is a running process that has arg among its arguments, or nil.
func findProcess(pid int, arg string) *process {
	if pid <= 1 || !hasArgument(pid, arg) {
		return nil
	}
	p := &process{pid: pid, ended: make(chan struct{})}
	go func() { // it is not our child: nothing but asking tells its end
		for hasArgument(pid, arg) {
			time.Sleep(200 * time.Millisecond)
		}
		close(p.ended)
	}()
	return p
}

func hasArgument(pid int, arg string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty for a zombie
	return err == nil && bytes.Contains(append([]byte{0}, line...), append(append([]byte{0}, arg...), 0))
}

// done is closed when the process has ended.
func (p *process) done() <-chan struct{} { return p.ended }

// stop asks the process to end, kills it after grace, and waits.
func (p *process) stop(grace time.Duration) {
	signal := func(s syscall.Signal) bool {
		return !errors.Is(syscall.Kill(p.pid, s), syscall.ESRCH)
	}
	select {
	case <-p.ended:
		return
	default:
	}
	if signal(syscall.SIGTERM) {
		select {
		case <-p.ended:
			return
		case <-time.After(grace):
		}
		signal(syscall.SIGKILL)
	}
	<-p.ended
}
