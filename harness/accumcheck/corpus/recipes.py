"""Loops that are right, to copy: ``accumcheck recipe`` prints them. Each is checked in the tests, for what it says."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch

from accumcheck.task import Task


def window_sample(
    model: Any, optimizer: Any, scheduler: Any, loss_fn: Any, loader: Any, accumulation_steps: int, epochs: int
) -> None:
    """For a loss that is a mean over samples. Draws a window of micro-batches first, and counts its samples."""
    for _ in range(epochs):
        batches = iter(loader)
        while window := list(islice(batches, accumulation_steps)):  # fewer at the end of an epoch
            samples_in_window = sum(len(targets) for _, targets in window)
            for inputs, targets in window:
                loss = loss_fn(model(inputs), targets) * len(targets) / samples_in_window
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()


def window_token(
    model: Any, optimizer: Any, scheduler: Any, loss_fn: Any, loader: Any, accumulation_steps: int, epochs: int
) -> None:
    """For a loss that is a mean over tokens whose target is not -100. Counts the window's tokens first."""
    for _ in range(epochs):
        batches = iter(loader)
        while window := list(islice(batches, accumulation_steps)):  # fewer at the end of an epoch
            tokens_in_window = sum((targets != -100).sum() for _, targets in window)
            for inputs, targets in window:
                loss = loss_fn(model(inputs), targets) * (targets != -100).sum() / tokens_in_window
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()


def stream_sample(
    model: Any, optimizer: Any, scheduler: Any, loss_fn: Any, loader: Any, accumulation_steps: int, epochs: int
) -> None:
    """For a loss that is a mean over samples. Looks at one micro-batch at a time, and divides before the step."""
    for _ in range(epochs):
        samples = 0
        for i, (inputs, targets) in enumerate(loader):
            loss = loss_fn(model(inputs), targets) * len(targets)
            loss.backward()
            samples += len(targets)
            if (i + 1) % accumulation_steps == 0 or i + 1 == len(loader):
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter.grad /= samples
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                samples = 0


def stream_token(
    model: Any, optimizer: Any, scheduler: Any, loss_fn: Any, loader: Any, accumulation_steps: int, epochs: int
) -> None:
    """For a loss that is a mean over tokens whose target is not -100. One micro-batch at a time."""
    for _ in range(epochs):
        tokens = 0
        for i, (inputs, targets) in enumerate(loader):
            unmasked = int((targets != -100).sum())
            loss = loss_fn(model(inputs), targets) * unmasked
            loss.backward()
            tokens += unmasked
            if (i + 1) % accumulation_steps == 0 or i + 1 == len(loader):
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter.grad /= tokens
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                tokens = 0


def scaler_sample(
    model: Any, optimizer: Any, scheduler: Any, loss_fn: Any, loader: Any, accumulation_steps: int, epochs: int
) -> None:
    """For a loss that is a mean over samples, with a GradScaler and clipping: both once an update."""
    scaler = torch.amp.GradScaler()
    for _ in range(epochs):
        batches = iter(loader)
        while window := list(islice(batches, accumulation_steps)):  # fewer at the end of an epoch
            samples_in_window = sum(len(targets) for _, targets in window)
            for inputs, targets in window:
                loss = loss_fn(model(inputs), targets) * len(targets) / samples_in_window
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scheduler.step()


def scaler_token(
    model: Any, optimizer: Any, scheduler: Any, loss_fn: Any, loader: Any, accumulation_steps: int, epochs: int
) -> None:
    """For a loss that is a mean over tokens whose target is not -100, with a GradScaler and clipping."""
    scaler = torch.amp.GradScaler()
    for _ in range(epochs):
        batches = iter(loader)
        while window := list(islice(batches, accumulation_steps)):  # fewer at the end of an epoch
            tokens_in_window = sum((targets != -100).sum() for _, targets in window)
            for inputs, targets in window:
                loss = loss_fn(model(inputs), targets) * (targets != -100).sum() / tokens_in_window
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scheduler.step()


RECIPES = (window_sample, window_token, stream_sample, stream_token, scaler_sample, scaler_token)


def as_loop(recipe: Any) -> Any:
    """A recipe as a loop that can be checked."""

    def train(task: Task) -> None:
        recipe(
            task.model, task.optimizer, task.scheduler, task.loss_fn, task.loader, task.accumulation_steps, task.epochs
        )

    train.__name__ = recipe.__name__
    return train
