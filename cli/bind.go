package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/fluxgate/fluxgate/router"
)

// listenAddress is what --http and --https mean: a port, or host:port. Without
// a host, a gateway for public hostnames listens on all addresses, and one
// whose domain only this machine can resolve on loopback alone.
func listenAddress(flag, value, domain string) (string, error) {
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		host, port = "", strings.TrimPrefix(value, ":")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 && port != "0" {
		return "", usagef("--%s %s: a port from 1 to 65535, or address:port", flag, value)
	}
	if host == "" && (domain == "localhost" || strings.HasSuffix(domain, ".localhost")) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// listen opens a TCP listener, with an error that says what to do.
func listen(flag, address string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	switch {
	case err == nil:
		return ln, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is taken by another program; stop it (`ss -ltnp` shows which), or choose another port with --%s", address, flag)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("this user may not listen on %s; run as root, or choose a port above 1023 with --%s", address, flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is not an address of this machine; choose one that is with --%s", address, flag)
	}
	return nil, fmt.Errorf("cannot listen on %s: %w; choose another address with --%s", address, err, flag)
}

// port is the port of a listener.
func port(ln net.Listener) int {
	if a, ok := ln.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

// appURL is an app's address as a person opens it.
func appURL(host string, httpsPort int) string {
	if httpsPort == 443 {
		return "https://" + host
	}
	return fmt.Sprintf("https://%s:%d", host, httpsPort)
}

// platformURL is the control API's address.
func platformURL(domain string, httpsPort int) string {
	return appURL(router.PlatformHost(domain), httpsPort)
}
