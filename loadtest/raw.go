package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// rawLabel marks the containers that this program itself makes.
const rawLabel = "fluxgate-loadtest"

// rawContainer is a container made by raw calls, just like one of the
// gateway's.
type rawContainer struct {
	podman *podmanAPI
	spec   map[string]any
	id     string
}

// inspected is the part of Podman's inspect answer that makes a container like
// another.
type inspected struct {
	OCIRuntime string
	Config     struct{ Env []string }
	HostConfig struct {
		CPUPeriod   uint64 `json:"CpuPeriod"`
		CPUQuota    int64  `json:"CpuQuota"`
		NanoCPUs    int64  `json:"NanoCpus"`
		Memory      int64
		PidsLimit   int64
		NetworkMode string
		LogConfig   struct{ Type string }
		Ulimits     []struct {
			Name       string
			Soft, Hard int64
		}
	}
	NetworkSettings struct {
		IPAddress string
		Networks  map[string]struct{ IPAddress string }
	}
	State struct{ Status string }
}

func (p *podmanAPI) inspect(ctx context.Context, id string) (inspected, error) {
	var in inspected
	err := p.get(ctx, "/containers/"+id+"/json", url.Values{}, &in)
	return in, err
}

// like makes a specification with the image, runtime, limits and network of a
// container of the gateway's, so that the raw calls do the same work.
func (p *podmanAPI) like(ctx context.Context, id, image string) (map[string]any, error) {
	in, err := p.inspect(ctx, id)
	if err != nil {
		return nil, err
	}
	host := in.HostConfig
	quota, period := host.CPUQuota, host.CPUPeriod
	if quota == 0 && host.NanoCPUs > 0 {
		quota, period = host.NanoCPUs/10_000, 100_000
	}
	limits := map[string]any{}
	if quota > 0 {
		limits["cpu"] = map[string]any{"quota": quota, "period": period}
	}
	if host.Memory > 0 {
		limits["memory"] = map[string]any{"limit": host.Memory}
	}
	if host.PidsLimit > 0 {
		limits["pids"] = map[string]any{"limit": host.PidsLimit}
	}
	ulimits := []map[string]any{}
	for _, u := range host.Ulimits {
		name := strings.ToLower(strings.TrimPrefix(u.Name, "RLIMIT_"))
		ulimits = append(ulimits, map[string]any{"type": name, "soft": u.Soft, "hard": u.Hard})
	}
	spec := map[string]any{
		"image": image, "oci_runtime": in.OCIRuntime,
		"env":             map[string]string{"PORT": "8080"},
		"labels":          map[string]string{rawLabel: "raw"},
		"resource_limits": limits, "r_limits": ulimits,
	}
	if mode := host.NetworkMode; mode == "bridge" {
		spec["netns"] = map[string]string{"nsmode": "bridge"}
	}
	if driver := host.LogConfig.Type; driver != "" {
		spec["log_configuration"] = map[string]any{"driver": driver}
	}
	return spec, nil
}

func (c *rawContainer) create(ctx context.Context) error {
	text, err := json.Marshal(c.spec)
	if err != nil {
		return err
	}
	answer, err := c.podman.send(ctx, http.MethodPost, "/containers/create", "application/json", bytes.NewReader(text))
	if err != nil {
		return err
	}
	var made struct {
		ID string `json:"Id"`
	}
	if err := json.Unmarshal(answer, &made); err != nil {
		return err
	}
	c.id = made.ID
	return nil
}

// do is one call on the container: start, pause, unpause, stop.
func (c *rawContainer) do(ctx context.Context, what string) error {
	_, err := c.podman.send(ctx, http.MethodPost, "/containers/"+c.id+"/"+what, "", nil)
	return err
}

func (c *rawContainer) remove(ctx context.Context) error {
	if c.id == "" {
		return nil
	}
	_, err := c.podman.send(ctx, http.MethodDelete, "/containers/"+c.id+"?force=true&timeout=0", "", nil)
	return err
}

// startListening starts the container and returns when its port takes
// connections: what a request could wait for at best. The address is asked for
// after the start, since it changes.
func (c *rawContainer) startListening(ctx context.Context) error {
	if err := c.do(ctx, "start"); err != nil {
		return err
	}
	in, err := c.podman.inspect(ctx, c.id)
	if err != nil {
		return err
	}
	ip := in.NetworkSettings.IPAddress
	for _, n := range in.NetworkSettings.Networks {
		ip = n.IPAddress
	}
	if ip == "" {
		return fmt.Errorf("container %s has no address of its own: the reference needs Podman as root", c.id)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(ip, "8080"))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("container %s does not listen: %w", c.id, err)
		case <-time.After(500 * time.Microsecond):
		}
	}
}
