// Command serve is the small static web server inside every static site's
// image, and the program that a node check runs. It serves the folder -root on
// $PORT, and stops gracefully on SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	root := flag.String("root", "/site", "the folder to serve")
	probe := flag.Bool("probe", false, "answer every request with the limits that this process runs under, as JSON")
	flag.Parse()
	if err := run(*root, *probe); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func run(root string, probe bool) error {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	ln, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	var handler http.Handler = limitsHandler(os.DirFS("/"), fill)
	if !probe {
		dir, err := os.OpenRoot(root)
		if err != nil {
			return err
		}
		defer dir.Close()
		handler = newSite(dir)
	}
	// No idle timeout: the only client is the gateway, and a connection that it
	// keeps must still be good after a night in the freezer.
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		<-stop.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
		defer cancel()
		done <- srv.Shutdown(ctx)
	}()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-done
}
