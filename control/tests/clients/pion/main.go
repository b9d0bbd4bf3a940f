// Publishes or views with LiveKit's Go SDK, which stands on Pion, by the command line that ../README.md describes.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"
)

// What a viewer has to receive before a step counts.
const (
	framesMin  = 30
	packetsMin = 50
)

type report struct {
	Ok      bool           `json:"ok"`
	Publish *bool          `json:"publish"`
	View    *bool          `json:"view"`
	Data    bool           `json:"data"`
	Resume  *bool          `json:"resume"`
	Detail  map[string]any `json:"detail"`
}

type options struct {
	role, url, token, mode string
	seconds                float64
	resumes                bool
}

func main() {
	chosen, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	result := play(chosen)
	line, err := json.Marshal(result)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
	if !result.Ok {
		os.Exit(1)
	}
}

// Flags may stand before the role and after it.
func parse(arguments []string) (options, error) {
	chosen := options{seconds: 60}
	noResume := false
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.StringVar(&chosen.url, "url", "", "the server's WebSocket URL")
	flags.StringVar(&chosen.token, "token", "", "names room and identity")
	flags.StringVar(&chosen.mode, "mode", "", "v0 or v1")
	flags.Float64Var(&chosen.seconds, "seconds", chosen.seconds, "gives up after so long")
	flags.BoolVar(&noResume, "no-resume", false, "leave out the resume")
	for len(arguments) > 0 {
		if err := flags.Parse(arguments); err != nil {
			return chosen, err
		}
		arguments = flags.Args()
		if len(arguments) > 0 {
			chosen.role, arguments = arguments[0], arguments[1:]
		}
	}
	chosen.resumes = !noResume
	switch {
	case chosen.role != "publish" && chosen.role != "view":
		return chosen, errors.New("one argument is publish or view")
	case chosen.mode != "v0" && chosen.mode != "v1", chosen.url == "", chosen.token == "":
		return chosen, errors.New("needed: --url, --token and --mode v0|v1")
	}
	return chosen, nil
}

// play goes through the steps, and returns the report.
func play(chosen options) report {
	done, publishes := new(bool), chosen.role == "publish"
	result := report{Detail: map[string]any{}}
	if publishes {
		result.Publish = done
	} else {
		result.View = done
	}
	if chosen.resumes {
		result.Resume = new(bool)
	}
	c := newClient()
	deadline := time.Now().Add(time.Duration(chosen.seconds * float64(time.Second)))
	err := steps(c, chosen, deadline, done, &result)
	if err != nil {
		result.Detail["error"] = err.Error()
	}
	c.leave()
	c.describe(result.Detail)
	result.Ok = err == nil && *done && result.Data && (result.Resume == nil || *result.Resume)
	return result
}

// steps sets done when the role's own part has succeeded.
func steps(c *client, chosen options, deadline time.Time, done *bool, result *report) error {
	const othersLeaving = "the other one leaves"
	until := func(what string, condition func() bool) error {
		for ; !condition(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("%s: not within %v s", what, chosen.seconds)
			}
			if c.otherLeft.Load() && what != othersLeaving {
				return fmt.Errorf("%s: the other one left before", what)
			}
		}
		return nil
	}
	media := func(what string) error {
		frames, packets := c.frames.Load()+framesMin, c.packets.Load()+packetsMin
		return until(what, func() bool { return c.frames.Load() >= frames && c.packets.Load() >= packets })
	}
	resume := func() error {
		if !chosen.resumes {
			return nil
		}
		if err := c.loseSignal(); err != nil {
			return err
		}
		if err := until("resume", c.isResumed); err != nil {
			return err
		}
		if c.sid() != c.sidAtFirst {
			return errors.New("resume: the participant's sid has changed")
		}
		return nil
	}

	if err := c.join(chosen, time.Until(deadline)); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if chosen.role == "publish" {
		if err := c.publish(); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	go c.ask()
	if chosen.role == "view" {
		if err := media("media arrives"); err != nil {
			return err
		}
	}
	*done = true
	if err := until("data goes both ways", c.exchanged); err != nil {
		return err
	}
	result.Data = true

	if chosen.role == "publish" {
		if err := until("the viewer is settled", c.otherSettled.Load); err != nil {
			return err
		}
		if err := resume(); err != nil {
			return err
		}
		if result.Resume != nil {
			*result.Resume = true
		}
		c.muteAndUnmute()
		go c.settle()
		return until(othersLeaving, c.otherLeft.Load)
	}
	if err := resume(); err != nil {
		return err
	}
	if err := media("media arrives after the viewer's resume"); err != nil {
		return err
	}
	go c.settle()
	if err := until("the publisher is settled", c.otherSettled.Load); err != nil {
		return err
	}
	if err := media("media arrives after the publisher's resume"); err != nil {
		return err
	}
	if result.Resume != nil {
		*result.Resume = true
	}
	return nil
}
